"""The table a job ends with: latency, accuracy and size, before and after."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from api.cli.output import DASH, console, milliseconds, percent, say, size


def result_table(result: Mapping[str, Any]) -> Table:
    """Rows of one result: before, after, what became of it, and what was asked for."""
    table = Table("", "before", "after", "change", "budget", title="Result", title_justify="left")
    table.add_row(
        "latency",
        milliseconds(result.get("dense_latency_ms")),
        milliseconds(result.get("latency_ms")),
        escape(interval(result)),
        f"≤ {percent(result.get('budget_ratio'))}",
    )
    for there in result.get("further_devices") or ():
        table.add_row(
            escape(f"latency on {there['device']}"),
            milliseconds(there["dense_latency_ms"]),
            milliseconds(there["latency_ms"]),
            escape(interval(there)),
            f"≤ {percent(there['budget_ratio'])}",
        )
    table.add_row(
        "accuracy",
        percent(result.get("dense_accuracy"), 2),
        percent(result.get("accuracy"), 2),
        points(result.get("dense_accuracy"), result.get("accuracy")),
        "",
    )
    before, after = result.get("dense_bytes"), result.get("bytes")
    share = percent(after / before) if before and after is not None else DASH
    table.add_row("size", size(before), size(after), share, "")
    return table


def runtimes_table(result: Mapping[str, Any]) -> Table | None:
    """The dense model in each runtime, where the job chose one of them."""
    answers = result.get("runtimes") or ()
    if not answers:
        return None
    table = Table(
        "runtime", "format", "latency", "of its float latency", title="Runtimes",
        title_justify="left",
    )  # fmt: skip
    for each in answers:
        told = percent(each["ratio"]) if each["error"] is None else each["error"]
        table.add_row(
            escape(each["runtime"]), each["format"], milliseconds(each["latency_ms"]), escape(told)
        )
    return table


def interval(result: Mapping[str, Any]) -> str:
    """The measured ratio to the dense latency with its confidence interval."""
    low, high = percent(result.get("ratio_low")), percent(result.get("ratio_high"))
    return f"{percent(result.get('ratio'))} [{low}, {high}]"


def points(before: object, after: object) -> str:
    """How far an accuracy moved, in points."""
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return DASH
    return f"{100 * (after - before):+.2f} points"


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the table has no room for."""
    told = []
    if result.get("warning"):
        told.append(str(result["warning"]))
    if result.get("test_images"):
        told.append(f"accuracy on {result['test_images']} test images")
    if result.get("measured"):
        levels = result.get("levels")
        many = "s" if levels != 1 else ""
        told.append(f"{result['measured']} candidates measured on {levels} level{many}")
    if result.get("int8_layers"):
        told.append(f"{result['int8_layers']} layers in int8 ({result['int8_format']})")
    if result.get("disturbed_ratio"):
        told.append(f"{percent(result['disturbed_ratio'])} while the device was disturbed")
    reuse = result.get("measurements") or {}
    if reuse.get("reused"):
        told.append(f"{reuse['reused']} reused from {', '.join(reuse['from_jobs'])}")
    told += [
        f"{each['name']} measured {each['duty']:.0%} of the time that candidates waited"
        for each in result.get("devices") or ()
        if each.get("duty")
    ]
    told += [
        f"{each['name']} {each['note']}" for each in result.get("devices") or () if each["note"]
    ]
    if result.get("runtimes"):
        told.append(f"deploy in {result['runtime']}, the fastest runtime of the device")
    return told + [str(result[name]) for name in ("device", "runtime") if result.get(name)]


def show_result(result: Mapping[str, Any]) -> None:
    """Writes the table and the notes below it."""
    console().print(result_table(result))
    if (runtimes := runtimes_table(result)) is not None:
        console().print(runtimes)
    if result.get("unpruned"):
        say("The budget is above the dense latency: the model is returned unpruned.")
    say(" · ".join(notes(result)))
