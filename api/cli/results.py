"""The table a job ends with: latency, accuracy and size, before and after."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.output import milliseconds, percent, say, size


def result_table(result: Mapping[str, Any]) -> Table:
    """Rows of one result: before, after, and what was asked for."""
    table = Table("", "before", "after", "", title="Result", title_justify="left")
    table.add_row(
        "latency",
        milliseconds(result.get("dense_latency_ms")),
        milliseconds(result.get("latency_ms")),
        escape(latency_note(result)),
    )
    table.add_row(
        "accuracy",
        percent(result.get("dense_accuracy"), 2),
        percent(result.get("accuracy"), 2),
        accuracy_note(result),
    )
    table.add_row("size", size(result.get("dense_bytes")), size(result.get("bytes")), "")
    return table


def latency_note(result: Mapping[str, Any]) -> str:
    """The measured ratio with its interval, and the budget."""
    ratio = percent(result.get("ratio"))
    low, high = percent(result.get("ratio_low")), percent(result.get("ratio_high"))
    return f"{ratio} of dense [{low}, {high}], budget {percent(result.get('budget_ratio'))}"


def accuracy_note(result: Mapping[str, Any]) -> str:
    """On how many images the accuracy was counted."""
    images = result.get("test_images")
    return f"on {images} test images" if images else ""


def show_result(result: Mapping[str, Any]) -> None:
    """Writes the table and what does not fit into it."""
    Console().print(result_table(result))
    if result.get("unpruned"):
        say("The budget is above the dense latency: the model is returned unpruned.")
    where = [str(result[name]) for name in ("device", "runtime") if result.get(name)]
    counts = f"{result.get('measured')} candidates measured on {result.get('levels')} levels"
    say(" · ".join([*where, counts] if result.get("measured") else where))
