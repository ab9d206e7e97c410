"""The commands `remove` and `rm` of models, data sets, jobs and devices."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.connection import ApiKey, AsJson, Server, connect
from api.cli.output import explain, say

if TYPE_CHECKING:
    from api.client import Client, Removable

Names = Annotated[list[str], typer.Argument(metavar="NAME", help="Names or ids.")]


def remove_all(resource: "Removable[Any]", names: list[str], *, as_json: bool) -> None:
    """Removes one after the other. One that is refused is explained and does not keep the others;
    the command then ends with status 1."""
    from api.client import ApiProblem

    removed = []
    for name in names:
        try:
            resource.remove(name)
        except ApiProblem as problem:
            explain(problem.document)
            continue
        removed.append(name)
        if not as_json:
            say(f"{name} is removed")
    if as_json:
        say(json.dumps({"removed": removed}))
    if len(removed) < len(names):
        raise typer.Exit(1)


def add_removal(
    app: typer.Typer,
    resource: Callable[["Client"], "Removable[Any]"],
    text: str,
) -> None:
    """Gives a group of commands its `remove`, and `rm`, which its help does not show.

    Args:
        text: What the help says.
    """

    def remove(
        names: Names, as_json: AsJson = False, server: Server = None, key: ApiKey = None
    ) -> None:
        with connect(server, key) as client:
            remove_all(resource(client), names, as_json=as_json)

    app.command("remove", help=text)(remove)
    app.command("rm", help=text, hidden=True)(remove)
