"""What else a measurement tells of a model: its first use, its tail, and its dearest layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MOST_LAYERS = 10


def details(raw: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of the measurement's candidate; what was not measured is None.

    Args:
        raw: the measurement as the device sent it.
    """
    sent = raw or {}
    spread = sent.get("candidate") or {}
    return {
        "load_ms": sent.get("load_ms"),
        "cold_ms": sent.get("cold_ms"),
        "p90_ms": _ms(spread.get("p90_ns")),
        "p99_ms": _ms(spread.get("p99_ns")),
        "calls": spread.get("count"),
        "outliers": spread.get("outliers"),
        "peak_rss_mb": sent.get("peak_rss_mb"),
        "layers": _dearest(sent.get("profile") or ()),
    }


def judged_on(result: Mapping[str, Any]) -> str:
    """The images on which accuracy is told: a job reads test images, once and after its choice."""
    return str(result.get("judged_on", "test"))


def within_words(result: Mapping[str, Any]) -> str:
    """Whether the budget is met, and which."""
    within = "within" if result["within_budget"] else "not wholly within"
    others = [each["device"] for each in result["further_devices"]]
    of_all = f", and what was asked for on {', '.join(others)}" if others else ""
    return f"{within} the budget of {result['budget_ratio']:.3f}{of_all}"


def further_latencies(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The latency on each further device whose budget the result must meet, as rows."""
    for there in result["further_devices"]:
        yield (
            f"latency on {there['device']}, budget {there['budget_ratio']:.3f}",
            f"{there['dense_latency_ms']:.3f} ms",
            f"{there['latency_ms']:.3f} ms ({there['ratio']:.3f}, {there['ratio_low']:.3f} to "
            f"{there['ratio_high']:.3f})",
        )


def sizes_of(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What the constraints of size and memory limit, before and after, as rows."""
    if result.get("parameters") is not None:
        yield "parameters", f"{result['dense_parameters']:,}", f"{result['parameters']:,}"
    if result.get("memory_mb") is not None:
        before, after = result["dense_memory_mb"], result["memory_mb"]
        yield "held by one call (computed)", f"{before:.3f} MB", f"{after:.3f} MB"


def ratio_while_disturbed(
    conditions: Mapping[str, Any] | None, low: float | None, high: float | None
) -> float | None:
    """The ratio while the device was disturbed, where that is not what the interval says too."""
    disturbed = (conditions or {}).get("disturbed_ratio")
    if disturbed is None or low is None or high is None or low <= disturbed <= high:
        return None
    return float(disturbed)


def _dearest(profile: Any) -> list[dict[str, Any]]:
    """The layers that took longest, with their part of all layers' time."""
    total = sum(ns for _, _, ns in profile) or 1
    dearest = sorted(profile, key=lambda layer: -layer[2])[:MOST_LAYERS]
    return [
        {"name": name, "op": op, "ms": ns / 1e6, "share": ns / total} for name, op, ns in dearest
    ]


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e6
