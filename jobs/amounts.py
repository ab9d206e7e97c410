"""Budgets, shares and times as people write them: `60%`, `0.6x`, `0.6`, `20ms`, `0.02s`, `30m`.
Knows no document."""

from __future__ import annotations

import math
import re

_AMOUNT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([^\d\s.]*)", re.IGNORECASE)
BYTES = 4  # of a number in float32
_RATIOS = {"": 1.0, "%": 0.01, "x": 1.0, "×": 1.0}
_MILLISECONDS = {"": 1.0, "ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ns": 1e-6}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
RATIO_FORMS = "60%, 0.6x or 0.6"
LATENCY_FORMS = "20ms, 0.02s or a number of milliseconds"


def ratio_of(text: str) -> float:
    """A part of the dense latency: `60%`, `0.6x` and `0.6` are 0.6.

    Raises:
        ValueError: Another unit, no number, or `2x`, which may mean twice as fast.
    """
    number, unit = _parts(text, f"a part of the dense latency, such as {RATIO_FORMS}")
    if unit not in _RATIOS:
        raise ValueError(_refusal(f"a part of the dense latency, such as {RATIO_FORMS}", text))
    if unit in ("x", "×") and number > 1:
        raise ValueError(
            f"must be a part of the dense latency, but got {text!r}: write "
            f"{100 / number:.3g}% for {number:g} times as fast"
        )
    return number / 100 if unit == "%" else number


def milliseconds_of(text: str) -> float:
    """A latency in milliseconds: `20ms`, `0.02s`, `20000us` and `20` are 20.

    Raises:
        ValueError: Another unit, or no number.
    """
    number, unit = _parts(text, f"a latency, such as {LATENCY_FORMS}")
    if unit not in _MILLISECONDS:
        raise ValueError(_refusal(f"a latency, such as {LATENCY_FORMS}", text))
    return number * _MILLISECONDS[unit]


def seconds_of(text: str) -> float:
    """A time in seconds: `30m`, `0.5h`, `1800s` and `1800` are 1800.

    Raises:
        ValueError: Another unit, or no number.
    """
    number, unit = _parts(text, "a time, such as 30m, 1.5h or a number of seconds")
    if unit not in _SECONDS:
        raise ValueError(_refusal("a time, such as 30m, 1.5h or a number of seconds", text))
    return number * _SECONDS[unit]


def share_of(text: str) -> float:
    """A share: `90%` and `0.9` are 0.9.

    Raises:
        ValueError: Another unit, or no number.
    """
    number, unit = _parts(text, "a share, such as 90% or 0.9")
    if unit not in ("", "%"):
        raise ValueError(_refusal("a share, such as 90% or 0.9", text))
    return number / 100 if unit else number


def parameters_in(megabytes: float) -> int:
    """How many parameters 10⁶ bytes hold so many times in float32; at least 1."""
    return max(1, int(round(megabytes * 1e6, 3) // BYTES))


def megabytes_of(count: int) -> str:
    """Bytes in 10⁶ of them, all digits."""
    return f"{count / 1e6:.6f}".rstrip("0").rstrip(".")


def budget_of(text: str) -> tuple[str, float]:
    """Either: `("ratio", 0.6)` or `("latency_ms", 20.0)`.

    Raises:
        ValueError: Neither, or a number above 1 without a unit, which could be both.
    """
    must = "a budget, such as 60%, 0.6x, 20ms or 0.02s"
    number, unit = _parts(text, must)
    if unit in _RATIOS and (unit or number <= 1):
        return "ratio", ratio_of(text)
    if unit and unit in _MILLISECONDS:
        return "latency_ms", milliseconds_of(text)
    hint = f": write {number:g}ms or {number:g}%" if not unit else ""
    raise ValueError(_refusal(must, text) + hint)


def _parts(text: str, must: str) -> tuple[float, str]:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or not math.isfinite(float(match[1])):
        raise ValueError(_refusal(must, text))
    return float(match[1]), match[2].lower()


def _refusal(must: str, text: str) -> str:
    return f"must be {must}, but got {text!r}"
