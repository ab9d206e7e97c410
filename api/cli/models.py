"""`secateur models`: submit trained networks and read what the check found."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.connection import ApiKey, AsJson, Server, connect
from api.cli.inputs import Patience, finish_check, shape
from api.cli.inspecting import Order, show_model
from api.cli.output import emit, remark, show_table
from api.cli.removing import add_removal
from api.onnx_packing import PackingError

app = typer.Typer(help="Trained networks.", no_args_is_help=True)


EXAMPLES = """\
Examples:

    secateur models add net --onnx model.onnx

    secateur models add net --architecture timm:resnet18 --weights w.safetensors \\
        --input-shape 3,224,224
"""


@app.command("add", epilog=EXAMPLES)
def add(
    name: Annotated[str, typer.Argument(help="Name of the new model.")],
    architecture: Annotated[
        str | None, typer.Option(help="torchvision:NAME, timm:NAME or python:module:function.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Safetensors file.", exists=True, dir_okay=False)
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="Input shape without the batch, such as 3,224,224.")
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            help="ONNX file (opset 7-25), instead of an architecture and weights. Data files "
            "beside it are sent along.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    kwargs: Annotated[
        str, typer.Option(help="Arguments of the architecture, as a JSON object.")
    ] = "{}",
    wait: Annotated[bool, typer.Option(help="Wait for the check.")] = True,
    as_json: AsJson = False,
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """Submit a model and wait until a worker has checked it.

    Give --architecture, --weights and --input-shape; or --onnx alone, with --input-shape where
    the file leaves sizes open.
    """
    spec, file = _what(architecture, weights, onnx)
    spec["name"] = name
    if input_shape is not None:
        spec["input_shape"] = shape(input_shape)
    elif onnx is None:
        raise typer.BadParameter("--input-shape must be given with --architecture")
    if kwargs != "{}":
        spec["kwargs"] = json_object(kwargs)
    with connect(server, key) as client:
        try:
            model = client.models.add(spec, file)
        except PackingError as error:
            raise typer.BadParameter(str(error), param_hint="--onnx") from None
        if wait:
            model = client.models.wait(model.id, seen=Patience(remark))
        finish_check(model, as_json=as_json)


def _what(
    architecture: str | None, weights: Path | None, onnx: Path | None
) -> tuple[dict[str, Any], Path]:
    """The beginning of the spec, and the file to upload."""
    if onnx is not None and architecture is None and weights is None:
        return {"architecture": "onnx"}, onnx
    if onnx is None and architecture is not None and weights is not None:
        return {"architecture": architecture}, weights
    raise typer.BadParameter("give --architecture and --weights, or --onnx alone")


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


add_removal(
    app,
    lambda client: client.models,
    "Remove models with their files; their names are free again. Jobs that "
    "have ended stay readable.",
)
