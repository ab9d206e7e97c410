"""Which runtimes take part in `target.runtime: auto`, and which of them is chosen. Pure numbers;
knows no table.

A simple answer is the dense model in one runtime: in float32, or with all layers in int8 that may
be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from latency_probes.messages import AUTO, usual_provider

FLOAT32 = "float32"
# The request for the dense model in float32; in further runtimes it has their name behind it.
DENSE = "dense"
_NEVER = frozenset({AUTO, "replay"})  # a recording measures nothing
_AT_LAST = "torch"  # its compiled code is no runtime that models are deployed in


@dataclass(frozen=True)
class Answer:
    """A simple answer.

    Attributes:
        format: `float32`, or a format of int8.
        latency_ms: in int8, the ratio times the latency in float32, so that formats compare as
            they were measured, interleaved.
        ratio: to the dense model in float32 in this runtime.
        error: why there are no numbers.
    """

    runtime: str
    format: str
    latency_ms: float | None = None
    ratio: float | None = None
    error: str | None = None


def dense_purpose(runtime: str) -> str:
    """The request for the dense model in a runtime that was not the first to be asked."""
    return f"{DENSE}:{runtime}"


def dense_on(number: int) -> str:
    """The request for the dense model on a further device of the job, by its place there."""
    return f"{DENSE}@{number}"


def int8_purpose(runtime: str, form: str) -> str:
    """The request for the dense model in int8, of a job that chooses its runtime."""
    return f"int8:{runtime}:{form}"


def taking_part(runtimes: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of a device's runtimes that are measured, by name: all with their usual provider but
    `replay`, and `torch` where there is no other.

    Args:
        runtimes: as the device announced them.
    """
    able = sorted(
        name
        for name, told in runtimes.items()
        if name not in _NEVER
        and isinstance(told, dict)
        and usual_provider(name) in (told.get("providers") or ())
    )
    return tuple(name for name in able if name != _AT_LAST) or tuple(able)


def fastest(answers: Iterable[Answer], precision: str) -> str | None:
    """The runtime of the fastest simple answer; None where none has a latency.

    Args:
        precision: of the job: with `int8` an answer in float32 counts only where there is no
            other.
    """
    known = [(each.latency_ms, each) for each in answers if each.latency_ms is not None]
    if precision == "int8":
        known = [pair for pair in known if pair[1].format != FLOAT32] or known
    best = min(known, key=lambda pair: (pair[0], pair[1].runtime), default=None)
    return None if best is None else best[1].runtime
