"""What models and data sets share on the command line: lists of numbers, a check's outcome."""

from typing import TYPE_CHECKING

import typer

from api.cli.output import emit, explain, say

if TYPE_CHECKING:
    from api.routes.views import DatasetView, ModelView


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


def finish_check(checked: "ModelView | DatasetView", *, as_json: bool) -> None:
    """Shows the outcome of a check; a rejected input ends the command with status 1."""
    if as_json:
        emit(checked)
    elif checked.state != "rejected":
        say(f"{checked.name} is {checked.state} ({checked.id})")
        for told in (getattr(checked, "report", None) or {}).get("adapted", {}).values():
            say(f"  {told}")
    if checked.state == "rejected":
        explain(checked.problem or {"detail": f"{checked.name} was rejected"})
        raise typer.Exit(1)
