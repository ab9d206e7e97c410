"""Which widths of one group are worth measuring alone, and which of those are stairs.

Latency is not monotone in width, so a width is allowed only where it was measured and no larger
width is as fast. Knows one group at a time; the ratios are whole-model ratios.
"""

from collections.abc import Mapping
from math import lcm

import numpy as np

ALIGNMENT = 8
MOST_ALONE = 96  # widths measured alone in one search: a minute or two each hundred
FEWEST_POINTS = 2
Stairs = dict[int, float]  # width -> whole-model ratio with only this group cut to it


def points_each(points: int, groups: int) -> int:
    """How many widths of each group are measured alone: `points`, fewer where groups are many."""
    return min(points, max(FEWEST_POINTS, MOST_ALONE // max(groups, 1)))


def coarse_widths(width: int, points: int, least: int = 1, step: int = 1) -> list[int]:
    """First widths to measure: multiples of 8, spread evenly, the one next to the half first; a
    third is left for bisection.

    Args:
        width: Full width.
        points: Most widths to measure.
        least: No narrower one is wanted.
        step: Widths must be multiples of this.
    """
    alignment = lcm(ALIGNMENT, step)
    multiples = list(range(alignment, width, alignment))
    if not multiples:
        half = width // 2 // step * step
        return [max(half, least)] if width > max(half, least) else []
    count = min(len(multiples), max(1, points - points // 3))
    stride = len(multiples) / count
    spread = {multiples[int((index + 0.5) * stride)] for index in range(count)}
    return sorted(spread, key=lambda each: (abs(each - width / 2), each))


def bisection_width(
    width: int, stairs: Mapping[int, float], tried: set[int], multiple: int = 1
) -> int | None:
    """Next width to measure: inside the gap over which the latency jumps most.

    Args:
        width: Full width, whose ratio is 1.
        stairs: Measured ratios.
        multiple: Widths must be multiples of this.
        tried: Widths requested already, measured or failed.

    Returns:
        The most aligned width in the middle half of the gap, or None when every gap is closed.
    """
    known = sorted({**stairs, width: 1.0}.items())
    step = aligned(width) if multiple == 1 else multiple
    if known[0][0] > 1:  # below the smallest known width the ratio goes on falling, at most
        first = known[0]
        known.insert(0, (0, max(0.0, first[1] - (1.0 - first[1]) * first[0] / width)))
    gaps = [
        (abs(above[1] - below[1]), above[0] - below[0], below[0], above[0])
        for below, above in zip(known, known[1:], strict=False)
    ]
    for _, _, low, high in sorted(gaps, reverse=True):
        inside = [
            middle for middle in range(low + 1, high) if middle % step == 0 and middle not in tried
        ]
        if inside:
            return _most_aligned(inside, (low + high) / 2, (high - low) / 4)
    return None


def aligned(width: int) -> int:
    """Widths closer than this differ by less than the noise: an eighth of the group, 8 at most."""
    return min(ALIGNMENT, 1 << max((width // 8).bit_length() - 1, 0))


def _most_aligned(widths: list[int], centre: float, reach: float) -> int:
    near = [width for width in widths if abs(width - centre) <= reach] or widths
    return max(near, key=lambda width: (width & -width, -abs(width - centre), width))


def allowed_widths(
    width: int, stairs: Mapping[int, float], gain: float, multiple: int = 1
) -> Stairs:
    """The Pareto set: each allowed width is faster by `gain` than every larger allowed one.

    Returns:
        Ratio of each allowed width, widest first; the full width always, at 1.
    """
    allowed: Stairs = {width: 1.0}
    fastest = 1.0
    for narrower in sorted(stairs, reverse=True):
        fits = narrower < width and narrower % multiple == 0
        if fits and stairs[narrower] < fastest - gain:
            fastest = stairs[narrower]
            allowed[narrower] = fastest
    return allowed


def filled(in_float: Stairs, measured: Mapping[int, float], dense: float) -> Stairs:
    """Ratios of the float stairs in int8, those that were not measured by the shape of the others.

    Between two measured widths the saving in int8 grows as that in float does, and below the
    narrowest one in proportion to it.

    Args:
        in_float: Allowed widths of a group and their ratios in float.
        measured: Ratios of some of them with all segments in int8.
        dense: The ratio of the dense model in int8.
    """
    known = sorted(
        (1.0 - ratio, dense - measured[width])
        for width, ratio in in_float.items()
        if width in measured and ratio < 1.0
    )
    if not known:
        return dict(measured)
    savings, in_int8 = zip((0.0, 0.0), *known, strict=True)

    def saved(saving: float) -> float:
        if saving > savings[-1]:
            return float(in_int8[-1] * saving / savings[-1])
        return float(np.interp(saving, savings, in_int8))

    return {
        width: measured.get(width, dense - saved(1.0 - ratio)) for width, ratio in in_float.items()
    }
