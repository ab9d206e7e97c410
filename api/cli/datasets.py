"""`secateur datasets`: say where labelled data lies, or upload it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.connection import ApiKey, AsJson, Server, connect
from api.cli.inputs import Patience, finish_check, numbers
from api.cli.output import emit, remark, show_table
from api.cli.removing import add_removal

app = typer.Typer(help="Labelled data.", no_args_is_help=True)


EXAMPLES = """\
Examples:

    secateur datasets add photos --format image_folder --path /data/photos

    secateur datasets add digits --format npz --archive digits.npz
"""


@app.command("add", epilog=EXAMPLES)
def add(
    name: Annotated[str, typer.Argument(help="Name of the new data set.")],
    form: Annotated[str, typer.Option("--format", help="idx, npz, image_folder or python.")],
    path: Annotated[Path | None, typer.Option(help="Where it lies on the server.")] = None,
    archive: Annotated[
        Path | None, typer.Option(help="File to upload instead.", exists=True, dir_okay=False)
    ] = None,
    function: Annotated[
        str | None, typer.Option(help="python:module:function, for the format python.")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Number of classes.")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean per channel, such as 0.5,0.5,0.5.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Deviation per channel.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the check.")] = True,
    as_json: AsJson = False,
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """Submit a data set and wait until a worker has checked it."""
    if [path, archive, function].count(None) != 2:
        raise typer.BadParameter("exactly one of --path, --archive and --function must be given")
    spec: dict[str, Any] = {"name": name, "format": form}
    if path is not None:
        spec["path"] = str(path.expanduser().absolute())
    if function is not None:
        spec["function"] = function
    if num_classes is not None:
        spec["num_classes"] = num_classes
    if mean is not None:
        spec["mean"] = numbers(mean)
    if std is not None:
        spec["std"] = numbers(std)
    with connect(server, key) as client:
        dataset = client.datasets.add(spec, archive)
        if wait:
            dataset = client.datasets.wait(dataset.id, seen=Patience(remark))
        finish_check(dataset, as_json=as_json)


@app.command("list")
def list_datasets(as_json: AsJson = False, server: Server = None, key: ApiKey = None) -> None:
    """List all data sets."""
    with connect(server, key) as client:
        datasets = client.datasets.list()
    if as_json:
        emit(datasets)
        return
    rows = [(d.name, d.state, d.spec.get("format"), d.info, d.id) for d in datasets]
    show_table(("Name", "State", "Format", "Contents", "Id"), rows, "No data set yet.")


add_removal(
    app,
    lambda client: client.datasets,
    "Remove data sets with what was uploaded; their names are free again. "
    "A folder on the server stays.",
)
