"""The plots of the report page, as inline SVG. Knows only rows of the tree."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

WIDTH, HEIGHT, MARGIN, LEFT = 640, 340, 52, 66
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # of ticks, times a power of ten


class Scale:
    """A linear map from values to pixels, a little wider than the values."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = min(values), max(values)
        pad = 0.05 * (high - low) or 0.05
        self.low, self.high = low - pad, high + pad
        self._start, self._stop = start, stop

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self._start + share * (self._stop - self._start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values, evenly spread: `count` of them, or some fewer."""
        rough = (self.high - self.low) / count
        power = 10.0 ** floor(log10(rough))
        step = next(power * each for each in STEPS if power * each >= rough * (1 - 1e-9))
        first, last = ceil(self.low / step), floor(self.high / step)
        return [number * step for number in range(first, last + 1)]


def scatter(rows: Sequence[dict[str, Any]], budget: float, chosen: str | None) -> str:
    """Calibration loss over latency ratio, the Pareto front, the budget, and the choice."""
    points = [row for row in rows if row["ratio"] is not None and row["loss"] is not None]
    if not points:
        return "<p>No candidate was scored.</p>"
    x = Scale([budget, *(row["ratio"] for row in points)], LEFT, WIDTH - 10)
    y = Scale([row["loss"] for row in points], HEIGHT - MARGIN, 10)
    last = sorted(points, key=lambda row: row["digest"] == chosen)  # nothing hides the choice
    dots = "".join(_dot(row, x, y, row["digest"] == chosen) for row in last)
    line = " ".join(f"{x(row['ratio']):.1f},{y(row['loss']):.1f}" for row in front(points))
    at = f"{x(budget):.1f}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Calibration loss over latency ratio">'
        f"{_axes(x, y)}"
        f'<line class="budget" x1="{at}" x2="{at}" y1="10" y2="{HEIGHT - MARGIN}"/>'
        f'<polyline class="front" points="{line}"/>{dots}</svg>'
    )


def front(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that no faster point beats in loss, fastest first."""
    best: list[dict[str, Any]] = []
    for row in sorted(points, key=lambda row: (row["ratio"], row["loss"])):
        if not best or row["loss"] < best[-1]["loss"]:
            best.append(row)
    return best


def _dot(row: dict[str, Any], x: Scale, y: Scale, is_chosen: bool) -> str:
    kind = "chosen" if is_chosen else f"level{min(int(row['level']), 6)}"
    title = escape(
        f"{row['digest'][:12]}, level {row['level']}, {row['origin']}: "
        f"ratio {row['ratio']:.4f}, loss {row['loss']:.4f}"
    )
    return (
        f'<circle class="{kind}" cx="{x(row["ratio"]):.1f}" cy="{y(row["loss"]):.1f}" '
        f'r="{7 if is_chosen else 4}"><title>{title}</title></circle>'
    )


def _axes(x: Scale, y: Scale) -> str:
    bottom = HEIGHT - MARGIN
    parts = [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 10}" y1="{bottom}" y2="{bottom}"/>',
        f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="10" y2="{bottom}"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        "latency, as a ratio to the dense model</text>",
        f'<text transform="translate(12 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "calibration loss</text>",
    ]
    for tick in x.ticks():
        parts.append(
            f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:.2f}</text>'
        )
    for tick in y.ticks():
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick):.1f}" text-anchor="end">{tick:.3f}</text>')
    return "".join(parts)
