"""report.html: the report as one page that needs nothing else. Every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from workers.report import robustness, runtimes
from workers.report.details import further_latencies, judged_on, sizes_of, within_words
from workers.report.plots import scatter

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1b2a24}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;
border-bottom:1px solid #d7e0db;font-variant-numeric:tabular-nums}
svg{width:100%;max-width:44rem;font-size:12px}.axis{stroke:#7a8a82}.budget{stroke:#b3261e;
stroke-dasharray:5 4}.front{fill:none;stroke:#2e7d5b}.chosen{fill:#b3261e}
.level0{fill:#c6d3cd}.level1{fill:#a5c8b8}.level2{fill:#83b79f}.level3{fill:#5fa385}
.level4{fill:#3f8f6c}.level5,.level6{fill:#2e7d5b}
pre{background:#f1f5f3;padding:1rem;overflow-x:auto}
@media(prefers-color-scheme:dark){body{background:#121a16;color:#dfe9e4}pre{background:#1c2721}
th,td{border-color:#33423b}text{fill:#dfe9e4}}
"""


def report_page(report: Mapping[str, Any]) -> str:
    """The page of a report document."""
    result = report["result"]
    title = f"Secateur report: {report['model']['name']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_summary(result))}</p>",
        _table(("", "dense", "result"), [*_comparison(result), *_first_use(report)]),
        "<h2>How it was measured</h2>",
        _table(("", ""), _measured(report["measurement"])),
        _table(("device", "measurements", "measuring", ""), _devices(result)),
        f"<p>{escape(_reused(result['measurements'], report['job']))}</p>",
    ]
    if (chosen_in := runtimes.choice(result)) is not None:
        parts += [
            "<h2>The runtimes</h2>",
            f"<p>{escape(chosen_in)}</p>",
            _table(runtimes.HEAD, runtimes.rows(result)),
        ]
    if result.get("warning"):
        parts.append(f"<p><strong>{escape(str(result['warning']))}.</strong></p>")
    if report.get("advice"):
        parts.append(f"<p>Note: {escape(report['advice'])}.</p>")
    if report["tree"]:
        chosen = result.get("candidate", result["plan_digest"])
        parts += [
            "<h2>The search</h2>",
            scatter(report["tree"], report["search_budget"], chosen),
            "<h2>Widths</h2>",
            _table(("group", "dense", "kept"), _widths(report)),
        ]
    if (precision := report.get("precision") or {}).get("format"):
        parts += [
            "<h2>Precision</h2>",
            f"<p>{escape(_formats(precision))}</p>",
            _table(("layer", "precision", "loss rise by its segment in int8"), _bits(precision)),
        ]
    if ways := report.get("ways"):
        parts += [
            "<h2>The simple ways</h2>",
            "<p>The best candidate of each that was measured, before fine-tuning. Where a network "
            "that is uniformly thinner loses as little, a smaller one trained anew may do.</p>",
            _table(("way", "latency ratio", "calibration loss", "within the budget"), _ways(ways)),
        ]
    for which in ("dense", "result"):
        if layers := _detailed(report, which).get("layers"):
            parts += [
                f"<h2>The dearest layers: {which}</h2>",
                _table(_LAYER_HEAD, _layers(layers)),
            ]
    if flips := report.get("robustness"):
        parts += [
            "<h2>Flipped bits</h2>",
            f"<p>{escape(robustness.words(flips))}</p>",
            _table(robustness.HEAD, robustness.rows(flips)),
        ]
    parts += [
        "<h2>Loading the result</h2>",
        "<p>Needs what these lines import, and the code of your network.</p>",
        f"<pre>{escape(report['loading'])}</pre>",
        f"<p>{escape(_origin(report))}</p>",
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style>{''.join(parts)}</html>"
    )


def _summary(result: Mapping[str, Any]) -> str:
    if result["unpruned"]:
        return (
            "The dense model meets the budget already: "
            f"{result['dense_latency_ms']:.3f} ms, and {result['budget_ms']:.3f} ms are allowed. "
            "Nothing was pruned."
        )
    within = within_words(result)
    disturbed = result["disturbed_ratio"]
    beside = f" While the device was disturbed, it was {disturbed:.3f}." if disturbed else ""
    return (
        f"Latency is {result['ratio']:.3f} of the dense model's "
        f"(95 % interval {result['ratio_low']:.3f} to {result['ratio_high']:.3f}), "
        f"{within}.{beside} Accuracy on "
        f"{result['test_images']} {judged_on(result)} images: {result['accuracy']:.2%}, "
        f"dense {result['dense_accuracy']:.2%}."
    )


def _comparison(result: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    yield (
        "latency",
        f"{result['dense_latency_ms']:.3f} ms",
        f"{result['latency_ms']:.3f} ms",
    )
    yield from further_latencies(result)
    yield (
        f"{judged_on(result)} accuracy",
        f"{result['dense_accuracy']:.2%}",
        f"{result['accuracy']:.2%}",
    )
    yield "ONNX size", f"{result['dense_bytes']:,} bytes", f"{result['bytes']:,} bytes"
    yield from sizes_of(result)


def _origin(report: Mapping[str, Any]) -> str:
    """Which job, if there was one, and which plan."""
    plan = f"plan {report['result']['plan_digest']}."
    return f"Job {report['job']['id']}, {plan}" if report["job"] else plan.capitalize()


def _detailed(report: Mapping[str, Any], which: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = report.get("details", {}).get(which, {})
    return found


def _first_use(report: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    """What is known of loading, of the first call and of the tail."""
    names = {"load_ms": "loading", "cold_ms": "first call", "p99_ms": "99th percentile"}
    both = [_detailed(report, which) for which in ("dense", "result")]
    for key, words in names.items():
        if any(each.get(key) for each in both):
            yield words, *(_duration(each, key) for each in both)


def _duration(known: Mapping[str, Any], key: str) -> str:
    value = known.get(key)
    beside = _stalls(known) if key == "p99_ms" else ""
    return "unknown" if value is None else f"{value:.3f} ms{beside}"


def _stalls(known: Mapping[str, Any]) -> str:
    """Why the 99th percentile tells of the device and not of the model, where it does: it lies
    among calls that took far longer than the rest."""
    calls, outliers = known.get("calls") or 0, known.get("outliers") or 0
    if outliers <= 0.01 * calls:
        return ""
    return (
        f" ({outliers} of {calls} calls took far longer than the rest, "
        "as when something else runs on the device)"
    )


_LAYER_HEAD = ("layer", "operator", "time", "part of all")


def _layers(layers: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, ...]]:
    for each in layers:
        yield each["name"], each["op"], f"{each['ms']:.4f} ms", f"{each['share']:.1%}"


def _measured(measurement: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for name in ("device", "target", "runtime_version", "kind", "verdict", "protocol"):
        yield _in_words(name), str(measurement[name])
    for name, value in sorted((measurement["conditions"] or {}).items()):
        if name != "disturbed_ratio":  # the summary tells it where it differs
            yield _in_words(name), "unknown" if value is None else str(value)


_UNITS = {"mb": "MB", "mhz": "MHz", "c": "°C", "ns": "ns"}


def _in_words(name: str) -> str:
    """The name of a field, with its unit behind it."""
    words, _, unit = name.rpartition("_")
    if unit in _UNITS:
        return f"{words.replace('_', ' ')} ({_UNITS[unit]})"
    return name.replace("_", " ")


def _devices(result: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for device in result["devices"]:
        duty = device["duty"]
        measuring = "" if duty is None else f"{duty:.0%} of the time that candidates waited"
        name = device["name"] or device["id"]
        yield name, str(device["measured"]), measuring, device["note"] or ""


def _reused(measurements: Mapping[str, Any], job: Mapping[str, Any] | None) -> str:
    measured = f"{measurements['measured']} candidates were measured"
    if job is None:
        return f"{measured}."
    if not measurements["reused"]:
        return f"{measured}, all of them for this job."
    earlier = ", ".join(measurements["from_jobs"])
    return (
        f"{measured}, {measurements['reused']} of them for {earlier}: the device was then as now."
    )


def _widths(report: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    dense = {group["name"]: group["width"] for group in report["groups"]["groups"]}
    for name, width in report["widths"].items():
        yield name, str(dense.get(name, "")), str(width)


def _formats(precision: Mapping[str, Any]) -> str:
    """The simple answers: the dense model in int8, in every format that the device has."""
    ratios = sorted(precision["dense"].items(), key=lambda item: (item[1], item[0]))
    told = ", ".join(f"{ratio:.3f} in {name}" for name, ratio in ratios)
    rise = precision.get("rise")
    lost = "" if rise is None else f", and its calibration loss rises by {rise:+.4f}"
    return (
        f"The dense model with all of these layers in int8 takes {told} of the float latency"
        f"{lost}; {precision['format']} was used. Layers that are not listed are float."
    )


def _ways(ways: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, ...]]:
    for row in ways:
        loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
        yield row["way"], f"{row['ratio']:.3f}", loss, "yes" if row["meets"] else "no"


def _bits(precision: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for row in precision["layers"]:
        rise = "" if row["rise"] is None else f"{row['rise']:+.4f}"
        yield row["layer"], row["precision"], rise


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{body}</table>"
