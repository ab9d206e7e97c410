"""What models and data sets share on the command line: lists of numbers, a check's outcome."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from api.cli.output import emit, explain, say

if TYPE_CHECKING:
    from api.routes.views import DatasetView, ModelView


EVERY_S = 20.0


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


@dataclass
class Patience:
    """Says now and then that something is still being checked, and what is done with it."""

    say: Callable[[str], None]
    began_s: float = field(default_factory=lambda: time.monotonic())
    told: int = 0

    def __call__(self, view: "ModelView | DatasetView") -> None:
        """Looked at while it is being checked."""
        waited_s = time.monotonic() - self.began_s
        if waited_s < EVERY_S * (self.told + 1):
            return
        self.told += 1
        doing = (
            "its layers are followed, and cuts of them are tried on its outputs"
            if hasattr(view, "report")
            else "its images are read"
        )
        self.say(f"Still checking {view.name}, {waited_s:.0f} s so far: {doing}.")


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
