"""How the command line speaks: tables for people, JSON for programs, problems on stderr."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

DASH = "–"
LISTED = 5
UNBOUNDED = 10_000


def emit(view: BaseModel | Sequence[BaseModel]) -> None:
    """Writes what the API showed as JSON to standard output."""
    document: Any = (
        view.model_dump(mode="json")
        if isinstance(view, BaseModel)
        else [each.model_dump(mode="json") for each in view]
    )
    Console(soft_wrap=True, highlight=False, markup=False).print(
        json.dumps(document, indent=2, ensure_ascii=False)
    )


def say(text: str) -> None:
    """Writes a line of plain text to standard output."""
    Console(soft_wrap=True, highlight=False).print(escape(text))


def remark(text: str) -> None:
    """Writes a line to standard error, beside what the command answers."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(escape(text))


def complain(text: str) -> None:
    """Writes an error to standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]Error:[/] {escape(text)}")


def explain(problem: Mapping[str, Any]) -> None:
    """Writes a problem document to standard error: what is wrong and what to change.

    What is said of a field is told once; of a long list of errors the first five are told.
    """
    errors = [_sentence(error) for error in problem.get("errors") or ()]
    detail = str(problem.get("detail") or problem.get("title") or "the server refused")
    complain(_heading(detail, errors))
    told = [error for error in errors if len(errors) > 1 or error not in detail]
    for error in told[:LISTED]:
        complain(f"  {error}")
    if len(told) > LISTED:
        complain(f"  and {len(told) - LISTED} more")
    known = {"type", "title", "status", "detail", "instance", "errors", "cause"}
    for field, value in problem.items():
        if field not in known:
            complain(f"  {field}: {value if isinstance(value, str) else json.dumps(value)}")


def _sentence(error: Mapping[str, Any]) -> str:
    """What is wrong with a field; most messages begin with its name."""
    field, message = str(error.get("field", "")), str(error.get("message", ""))
    return message if not field or message.startswith(field) else f"{field}: {message}"


def _heading(detail: str, errors: Sequence[str]) -> str:
    """The detail, or what it says beside the errors where it only joins several of them."""
    if len(errors) < 2 or not detail.startswith(errors[0]):
        return detail
    rest = detail
    for error in errors:
        rest = rest.replace(error, "", 1)
    hint = re.sub(r"^[;\s]*(\(and \d+ more\))?\.?\s*", "", rest)
    return f"{len(errors)} fields must be changed. {hint}".strip()


def console(*, stderr: bool = False) -> Console:
    """Standard output or error. Where that is no terminal nothing is cut to its width."""
    shown = Console(stderr=stderr)
    return shown if shown.is_terminal else Console(stderr=stderr, width=UNBOUNDED)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Writes rows under headings, or the sentence `empty` when there are none."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(escape(text(cell)) for cell in row))
    if table.row_count == 0:
        say(empty)
        return
    console().print(table)


def show_fields(fields: Mapping[str, object]) -> None:
    """Writes names and values, one pair a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(f"[dim]{escape(name)}[/]", escape(text(value)))
    console().print(table)


def age(moment: datetime, now: datetime) -> str:
    """How long ago something was, roughly."""
    seconds = max((now - moment).total_seconds(), 0.0)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def text(value: object) -> str:
    """A value as people read it."""
    if value is None or value in ("", {}, []):
        return DASH
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(text(each) for each in value)
    return str(value)


def percent(ratio: object, digits: int = 1) -> str:
    """A ratio in percent."""
    return f"{100 * ratio:.{digits}f} %" if isinstance(ratio, int | float) else DASH


def milliseconds(value: object) -> str:
    """A latency in milliseconds with three significant digits or more."""
    if not isinstance(value, int | float):
        return DASH
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def size(value: object) -> str:
    """A number of bytes."""
    if not isinstance(value, int | float):
        return DASH
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def duration(seconds: object) -> str:
    """A span of time, roughly."""
    if not isinstance(seconds, int | float):
        return DASH
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
