"""Which runtime was chosen among those of the device, in words and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEAD = ("runtime", "format", "latency", "of its float latency")


def choice(result: Mapping[str, Any]) -> str | None:
    """Which runtime to deploy the result in, and why; None where the job named its runtime.

    Args:
        result: of a report.
    """
    known = [row for row in result.get("runtimes") or () if row["latency_ms"] is not None]
    mine = [row["latency_ms"] for row in known if row["runtime"] == result["runtime"]]
    if not mine:
        return None
    return (
        f"Deploy the result in {result['runtime']} (version {result['runtime_version']}): of the "
        f"simple answers below, each the dense model, its fastest takes {min(mine):.3f} ms. "
        "Everything else was measured in it."
    )


def rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The simple answers, the fastest first, those with an error last."""
    answers = sorted(
        result.get("runtimes") or (),
        key=lambda row: (row["latency_ms"] is None, row["latency_ms"] or 0.0, row["runtime"]),
    )
    return [(row["runtime"], row["format"], *_numbers(row)) for row in answers]


def _numbers(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["latency_ms"] is None:
        return "none", str(row["error"])
    return f"{row['latency_ms']:.3f} ms", f"{row['ratio']:.3f}"
