"""How the command line speaks: tables for people, JSON for programs, problems on stderr."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

DASH = "–"


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


def complain(text: str) -> None:
    """Writes an error to standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]Error:[/] {escape(text)}")


def explain(problem: Mapping[str, Any]) -> None:
    """Writes a problem document to standard error: what is wrong and what to change."""
    complain(str(problem.get("detail") or problem.get("title") or "the server refused"))
    for error in problem.get("errors") or ():
        complain(f"  {error.get('field', '')}: {error.get('message', '')}")
    known = {"type", "title", "status", "detail", "instance", "errors"}
    for field, value in problem.items():
        if field not in known:
            complain(f"  {field}: {value if isinstance(value, str) else json.dumps(value)}")


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Writes rows under headings, or the sentence `empty` when there are none."""
    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(text(cell)) for cell in row))
    if table.row_count == 0:
        say(empty)
        return
    Console().print(table)


def show_fields(fields: Mapping[str, object]) -> None:
    """Writes names and values, one pair a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in fields.items():
        table.add_row(f"[dim]{escape(name)}[/]", escape(text(value)))
    Console().print(table)


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
