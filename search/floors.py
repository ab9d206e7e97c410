"""SAfER layer floors: the smallest width that each group may have, from measured sensitivities.

Pure arithmetic; it knows no model. The rises of a group, made monotone, give a curve S_g; water
is filled into the edges of all curves' lower convex hulls, the flattest first, until the tolerance
is used up. So at the floors the marginal rise is equal in all groups that are not at an end.

| symbol | meaning |
|---|---|
| r | share of a group's units removed |
| S_g(r) | predicted rise of the calibration loss, monotone and piecewise linear, S_g(0) = 0 |
| τ | tolerance: Σ_g S_g(r_g) ≤ τ at the floors |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

from search.errors import ConfigError

if TYPE_CHECKING:
    from search.sensitivity import Sensitivity

_CERTAIN_LOSS = 1e30  # stands for a rise that is not finite

Curve = list[tuple[float, float]]  # (r, S_g(r)), r ascending from 0 to 1


def layer_floors(
    sensitivity: Sensitivity,
    tolerance: float,
    *,
    widths: Mapping[str, int],
    least: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """The smallest width of every group such that the predicted total rise is at most τ.

    Args:
        sensitivity: measured rises.
        tolerance: τ ≥ 0, in units of the loss. A larger one never gives a larger floor.
        widths: dense width of every group; one without sensitivity keeps its width.
        least: the smallest floor of a group, where it is not 1: 0 for a block.

    Raises:
        ConfigError: a tolerance below 0.
    """
    if not tolerance >= 0:
        raise ConfigError(f"tolerance must be ≥ 0, but got {tolerance}")
    curves = {
        name: monotone_curve(sensitivity.ratios, sensitivity.rises[name])
        for name in sorted(widths)
        if name in sensitivity.rises
    }
    removed = _fill(curves, tolerance)
    return {
        name: max(least.get(name, 1), math.ceil(width * (1 - removed.get(name, 0.0)) - 1e-9))
        for name, width in widths.items()
    }


def predicted_rise(curve: Curve, ratio: float) -> float:
    """S_g(r) by linear interpolation."""
    for (r0, s0), (r1, s1) in pairwise(curve):
        if ratio <= r1:
            return s0 + (s1 - s0) * (ratio - r0) / (r1 - r0)
    return curve[-1][1]


def monotone_curve(ratios: Sequence[float], rises: Sequence[float]) -> Curve:
    """The isotonic fit of the rises, from (0, 0) to r = 1.

    Beyond the largest measured ratio the curve goes on with its steepest slope.
    """
    finite = [rise if math.isfinite(rise) else _CERTAIN_LOSS for rise in rises]
    fitted = [max(0.0, value) for value in isotonic(finite)]
    curve = [(0.0, 0.0), *zip(ratios, fitted, strict=True)]
    steepest = max((s1 - s0) / (r1 - r0) for (r0, s0), (r1, s1) in pairwise(curve))
    last_ratio, last_rise = curve[-1]
    return [*curve, (1.0, last_rise + steepest * (1 - last_ratio))]


def isotonic(values: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest in squares (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean = (mean * count + other * others) / (count + others)
            count += others
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]


@dataclass(frozen=True)
class _HullEdge:
    """One edge of a curve's lower convex hull."""

    slope: float
    group: str
    start: tuple[float, float]
    end: tuple[float, float]

    @property
    def rise(self) -> float:
        return self.end[1] - self.start[1]


def _fill(curves: Mapping[str, Curve], tolerance: float) -> dict[str, float]:
    """Group -> share removed."""
    edges = [edge for name, curve in curves.items() for edge in _hull_edges(name, curve)]
    edges.sort(key=lambda edge: (edge.slope, edge.group, edge.start))
    removed, left = dict.fromkeys(curves, 0.0), tolerance
    for _, equal in groupby(edges, key=lambda edge: edge.slope):
        level = list(equal)
        total_rise = sum(edge.rise for edge in level)
        share = 1.0 if total_rise <= left else left / total_rise
        for edge in level:
            removed[edge.group] = _reach(curves[edge.group], edge, share)
        left -= total_rise * share
        if share < 1:
            break
    return removed


def _hull_edges(name: str, curve: Curve) -> list[_HullEdge]:
    hull: Curve = []
    for point in curve:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return [_HullEdge(_slope(start, end), name, start, end) for start, end in pairwise(hull)]


def _slope(start: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])


def _reach(curve: Curve, edge: _HullEdge, share: float) -> float:
    """The largest r of an edge up to which the curve has used at most its share of the rise."""
    if share >= 1:
        return edge.end[0]
    allowed = edge.start[1] + share * edge.rise
    for (r0, s0), (r1, s1) in pairwise(curve):
        if r0 >= edge.start[0] and s1 > allowed:
            return r0 + (r1 - r0) * (allowed - s0) / (s1 - s0)
    return edge.end[0]
