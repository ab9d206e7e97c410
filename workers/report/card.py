"""model.md: a model card in Markdown: what it is, how it was measured, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from workers.report import runtimes
from workers.report.details import further_latencies, judged_on, sizes_of, within_words

LOAD_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
scores = session.run(None, {{{name!r}: images}})[0]  # {shape}, {dtype}
"""
WAYS = {
    "edited": "the file that came in, pruned where it stands",
    "exported": "exported anew, with the names of the model's inputs and outputs",
    "kept": "the file that came in, unchanged",
}


def model_card(report: Mapping[str, Any]) -> str:
    """The card of a report document; texts that users or files gave are plain words in it."""
    result = report["result"]
    parts = [
        f"# {_plain(report['model']['name'])}, pruned by Secateur",
        _what(report),
        "## Measurements",
        *_measurements(result, report["measurement"]),
        "## Data",
        _data(report),
        "## File",
        *_file(report),
        "## Loading",
        "With ONNX Runtime:",
        _code(_onnx_lines(report)),
        "With torch:",
        _code(report["loading"]),
        *([f"Job `{_plain(report['job']['id'])}`."] if report["job"] else []),
        f"Plan `{_plain(str(result['plan_digest']))}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _data(report: Mapping[str, Any]) -> str:
    result, which = report["result"], judged_on(report["result"])
    when = ", which were read once and after the choice" if which == "test" else ""
    return (
        f"Data set `{_plain(report['dataset']['name'])}`. Accuracy on {result['test_images']} "
        f"{which} images{when}: {result['accuracy']:.2%} (dense {result['dense_accuracy']:.2%})."
    )


def _what(report: Mapping[str, Any]) -> str:
    result = report["result"]
    if result["unpruned"]:
        return "The dense model: it met the budget already, and nothing was pruned."
    return (
        f"Architecture `{_plain(report['model']['architecture'])}`. Its latency is "
        f"{result['ratio']:.3f} of the dense model's (95 % interval {result['ratio_low']:.3f} to "
        f"{result['ratio_high']:.3f}), {within_words(result)}."
    )


def _measurements(result: Mapping[str, Any], row: Mapping[str, Any]) -> Iterable[str]:
    yield "\n".join(
        (
            "| | dense | result |",
            "|---|---|---|",
            f"| latency | {result['dense_latency_ms']:.3f} ms | {result['latency_ms']:.3f} ms |",
            *(f"| {_plain(name)} | {a} | {b} |" for name, a, b in further_latencies(result)),
            f"| accuracy | {result['dense_accuracy']:.2%} | {result['accuracy']:.2%} |",
            f"| ONNX file | {result['dense_bytes']:,} bytes | {result['bytes']:,} bytes |",
            *(f"| {name} | {before} | {after} |" for name, before, after in sizes_of(result)),
        )
    )
    conditions = row["conditions"] or {}
    threads = f", {_plain(str(conditions['cpu']))}" if conditions.get("cpu") else ""
    yield (
        f"Measured on the device `{_plain(str(result['device']))}`{threads}, target "
        f"`{_plain(str(row['target']))}`, runtime version {_plain(str(row['runtime_version']))}, "
        f"{_plain(str(row['kind']))}, verdict {_plain(str(row['verdict']))}. The times are those "
        "of the delivered file itself, interleaved with the dense model's."
    )
    if (chosen := runtimes.choice(result)) is not None:
        yield chosen
        yield "\n".join(
            f"| {' | '.join(map(_plain, row))} |"
            for row in (runtimes.HEAD, ("---",) * len(runtimes.HEAD), *runtimes.rows(result))
        )


def _file(report: Mapping[str, Any]) -> Iterable[str]:
    made = report.get("delivery") or {}
    if not made.get("way"):
        return
    difference = report["onnx_difference"]
    batches = " and ".join(str(each) for each in made["batches"])
    yield (
        f"`model.onnx` (opset {made['opset']}): {WAYS.get(made['way'], made['way'])}. ONNX "
        f"Runtime gives what torch gives at batches of {batches}"
        + (f", within {difference:.1e} of {_scale(report)}." if difference is not None else ".")
    )
    if made["reason"] and made["way"] == "exported":
        yield f"It was not edited, because {_plain(made['reason'])}."
    precision = report.get("precision") or {}
    layers = [row for row in precision.get("layers", ()) if row["precision"] == "int8"]
    if layers:
        yield (
            f"{len(layers)} of {len(precision['layers'])} layers are in int8 "
            f"({precision['format']}), with Q/DQ in the file; `plan.json` names them, and holds "
            "the ranges of their values. The accuracy is that of the file itself."
        )
    for note in made["notes"]:
        yield f"- {_plain(note)}"
    for name, said in sorted((report.get("exports") or {}).items()):
        yield f"- `{_plain(name)}`: {_plain(said)}"


def _scale(report: Mapping[str, Any]) -> str:
    is_rounded = any(
        row["precision"] == "int8" for row in (report.get("precision") or {}).get("layers", ())
    )
    return "the outputs' range (99 of 100 numbers)" if is_rounded else "the largest output"


def _onnx_lines(report: Mapping[str, Any]) -> str:
    sizes = (report.get("delivery") or {}).get("sizes") or {}
    name, shape = next(iter(sizes.items()), ("input", ()))
    told = (report.get("groups") or {}).get("input") or {}
    stored = {"float": "float32"}.get(str(told.get("stored")), told.get("stored"))
    dtype = stored or told.get("dtype", "float32")
    words = f"({', '.join(['batch', *map(str, shape)])})" if shape else "a batch"
    return LOAD_ONNX.format(name=_plain(str(name)), shape=words, dtype=dtype)


def _code(lines: str) -> str:
    return f"```python\n{lines.rstrip()}\n```"


def _plain(text: str) -> str:
    """One line without what Markdown or HTML would read."""
    words = " ".join(str(text).split())
    return "".join("'" if each == "`" else "/" if each in "|<>" else each for each in words)
