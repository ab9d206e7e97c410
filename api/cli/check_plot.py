"""The plot of a check as an SVG file that needs nothing else. Knows only the result's JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

WIDTH, PANEL, LEFT, RIGHT, TOP = 720, 230, 64, 16, 34
BOTTOM = 40
STYLE = (
    "svg{font:12px system-ui,sans-serif;background:#fff}text{fill:#46554d}.title{font-weight:600;"
    "fill:#16211b}.grid{stroke:#dde4de}.band{fill:#e2f1e9}.truth{stroke:#17694a;stroke-dasharray:"
    "5 4}.trial{stroke:#2b6f9c;fill:#2b6f9c}.strict{stroke:#17694a;fill:#17694a}.missed{stroke:"
    "#a8261c;fill:#a8261c}.sentinel{stroke:#b3480f;fill:#b3480f}.reference{stroke:#2b6f9c;fill:"
    "#2b6f9c}polyline{fill:none!important;stroke-width:1.5}tspan{stroke:none!important}"
)
Document = Mapping[str, Any]
Scale = Callable[[float], float]


def check_svg(result: Document, title: str) -> str:
    """Two panels: the trials with their intervals, and the device's history before them."""
    height = 2 * (TOP + PANEL + BOTTOM)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"{_trials(result['trials'], title)}"
        f'<g transform="translate(0 {TOP + PANEL + BOTTOM})">{_history(result["history"])}</g>'
        "</svg>"
    )


def _trials(trials: Sequence[Document], title: str) -> str:
    percents = [100 * (each[name] - 1) for each in trials for name in ("low", "high", "ratio")]
    x, y, frame = _frame(len(trials), [*percents, -1.2, 1.2])
    marks = "".join(_trial(trial, x(index), y) for index, trial in enumerate(trials))
    return (
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}: the model against itself, in % '
        "from 1, with 95 % intervals</text>"
        f'<rect class="band" x="{LEFT}" y="{y(1):.1f}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{y(-1) - y(1):.1f}"/>{frame}'
        f'<line class="truth" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>'
        f"{marks}{_ends([trial['at'] for trial in trials])}"
    )


def _trial(trial: Document, x: float, y: Scale) -> str:
    kind = "strict" if trial["kind"] == "strict" else "trial"
    low, middle, high = (100 * (trial[name] - 1) for name in ("low", "ratio", "high"))
    told = f"{trial['at']}, {trial['kind']}: {middle:+.2f} % [{low:+.2f}, {high:+.2f}]"
    return (
        f'<g class="{kind if trial["covers"] else "missed"}"><title>{escape(told)}</title>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
        f'<circle cx="{x:.1f}" cy="{y(middle):.1f}" r="{5 if kind == "strict" else 3.5}"/></g>'
    )


def _history(history: Sequence[Document]) -> str:
    lines = {"sentinel": sentinel_points(history), "reference": reference_points(history)}
    values = [value for points in lines.values() for _, value in points]
    x, y, frame = _frame(len(history), [*values, -2.0, 2.0])
    drawn = "".join(_line(name, points, x, y) for name, points in lines.items())
    return (
        f'<text class="title" x="{LEFT}" y="20">Last {len(history)} measurements: '
        '<tspan class="sentinel">sentinel</tspan> and <tspan class="reference">reference</tspan>,'
        f" in % from their medians</text>{frame}{drawn}{_ends([each['at'] for each in history])}"
    )


def sentinel_points(history: Sequence[Document]) -> list[tuple[int, float]]:
    """Place and deviation from the median in percent, where the sentinel's time is known."""
    known = [(i, each["sentinel_us"]) for i, each in enumerate(history) if each["sentinel_us"]]
    return _deviations(known)


def reference_points(history: Sequence[Document]) -> list[tuple[int, float]]:
    """Likewise for the references, each against the median of its own times."""
    points = []
    for digest in dict.fromkeys(each["reference"] for each in history):
        points += _deviations(
            [
                (i, each["reference_ms"])
                for i, each in enumerate(history)
                if each["reference"] == digest and each["reference_ms"]
            ]
        )
    return sorted(points)


def _deviations(known: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    usual = median(value for _, value in known) if known else 1.0
    return [(index, 100 * (value / usual - 1)) for index, value in known]


def _line(kind: str, points: Sequence[tuple[int, float]], x: Scale, y: Scale) -> str:
    places = [f"{x(index):.1f},{y(value):.1f}" for index, value in points]
    dots = "".join(f'<circle cx="{x(i):.1f}" cy="{y(v):.1f}" r="2.5"/>' for i, v in points)
    return f'<g class="{kind}"><polyline points="{" ".join(places)}"/>{dots}</g>'


def _frame(count: int, values: Sequence[float]) -> tuple[Scale, Scale, str]:
    """Maps for places and values, and the grid with its labels."""
    low, high = min(values), max(values)
    step = (WIDTH - LEFT - RIGHT) / max(count, 1)

    def x(index: float) -> float:
        return LEFT + (index + 0.5) * step

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * PANEL

    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{t:+g} %</text>'
        for t in _ticks(low, high)
    )
    return x, y, grid


def _ticks(low: float, high: float) -> list[float]:
    """Round values between two others, about five."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= (high - low) / 5)
    return [round(n * step, 9) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _ends(times: Sequence[str]) -> str:
    """The first and the last time, below the panel."""
    if not times:
        return ""
    line = TOP + PANEL + 20
    first, last = (escape(each[:19].replace("T", " ") + " UTC") for each in (times[0], times[-1]))
    return (
        f'<text x="{LEFT}" y="{line}">{first}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{line}" text-anchor="end">{last}</text>'
    )
