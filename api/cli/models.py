"""`secateur models`: submit trained networks and read what the check found."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.connection import ApiKey, AsJson, Server, connect
from api.cli.inputs import finish_check, shape
from api.cli.inspecting import Order, show_model
from api.cli.output import emit, show_table

app = typer.Typer(help="Trained networks.", no_args_is_help=True)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name of the new model.")],
    architecture: Annotated[
        str, typer.Option(help="torchvision:NAME, timm:NAME or python:module:function.")
    ],
    weights: Annotated[Path, typer.Option(help="Safetensors file.", exists=True, dir_okay=False)],
    input_shape: Annotated[
        str, typer.Option(help="Input shape without the batch, such as 3,224,224.")
    ],
    kwargs: Annotated[
        str, typer.Option(help="Arguments of the architecture, as a JSON object.")
    ] = "{}",
    wait: Annotated[bool, typer.Option(help="Wait for the check.")] = True,
    as_json: AsJson = False,
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """Submit a model and wait until a worker has checked it."""
    spec: dict[str, Any] = {
        "name": name,
        "architecture": architecture,
        "input_shape": shape(input_shape),
    }
    if kwargs != "{}":
        spec["kwargs"] = json_object(kwargs)
    with connect(server, key) as client:
        model = client.models.add(spec, weights)
        if wait:
            model = client.models.wait(model.id)
        finish_check(model, as_json=as_json)


@app.command("list")
def list_models(as_json: AsJson = False, server: Server = None, key: ApiKey = None) -> None:
    """List all models."""
    with connect(server, key) as client:
        models = client.models.list()
    if as_json:
        emit(models)
        return
    rows = [(m.name, m.state, m.spec.get("architecture"), m.id) for m in models]
    show_table(("Name", "State", "Architecture", "Id"), rows, "No model yet.")


@app.command("inspect")
def inspect(
    name: Annotated[str, typer.Argument(help="Name or id.")],
    sort: Annotated[Order, typer.Option(help="Order of the groups.")] = Order.MACS,
    everything: Annotated[bool, typer.Option("--all", help="Show all groups.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """Show what can be pruned, how much that is, and why the rest cannot be."""
    with connect(server, key) as client:
        model = client.models.get(name)
    if as_json:
        emit(model)
    else:
        show_model(model, order=sort, everything=everything)


def json_object(value: str) -> dict[str, Any]:
    """A JSON object from the command line."""
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"must be JSON, but got {value!r} ({error})") from error
    if not isinstance(parsed, dict):
        raise typer.BadParameter(f"must be a JSON object, but got {value!r}")
    return parsed
