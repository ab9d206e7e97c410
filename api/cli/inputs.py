"""What models and data sets share on the command line: lists of numbers, a check's outcome."""

from typing import Any

import typer

from api.cli.output import emit, explain, say


def shape(value: str) -> list[int]:
    """`3,224,224` as numbers."""
    try:
        return [int(part) for part in value.replace("x", ",").split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"must be numbers like 3,224,224, but got {value!r}") from error


def numbers(value: str) -> list[float]:
    """`0.5,0.5,0.5` as numbers."""
    try:
        return [float(part) for part in value.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"must be numbers like 0.5,0.5, but got {value!r}") from error


def finish_check(document: dict[str, Any], *, as_json: bool) -> None:
    """Shows the outcome of a check; a rejected input ends the command with status 1."""
    if as_json:
        emit(document)
    elif document["state"] != "rejected":
        say(f"{document['name']} is {document['state']} ({document['id']})")
    if document["state"] == "rejected":
        explain(document.get("problem") or {"title": f"{document['name']} was rejected"})
        raise typer.Exit(1)
