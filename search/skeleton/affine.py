"""Finds, for each number of a graph, the size it is an affine function of.

A size is Σ m_g · w_g for one fixed choice of multiples: the width of a group, or one dimension of
a tensor that several groups share (after a concatenation). Knows nothing of ONNX or of torch.

| symbol | meaning |
|---|---|
| w_g | width of group g |
| m_g | indices per unit of group g along the dimension |
| y = a + b · Σ m_g w_g | a number of the graph; a, b solved from samples, b or 1/b whole |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd

from search.errors import SkeletonError
from search.graph.dependency.groups import Group

Size = tuple[tuple[str, int], ...]  # (group, multiple), sorted by group
Widths = Mapping[str, int]


@dataclass(frozen=True)
class Affine:
    """y = offset + slope · Σ m_g w_g."""

    offset: Fraction
    slope: Fraction
    size: Size

    def __call__(self, widths: Widths) -> int:
        value = self.offset + self.slope * measure(self.size, widths)
        if value.denominator != 1 or value < 0:
            raise SkeletonError(f"a derived number must be an integer ≥ 0, but got {value}")
        return int(value)


def measure(size: Size, widths: Widths) -> int:
    return sum(multiple * widths[group] for group, multiple in size)


def sizes(groups: Sequence[Group]) -> list[Size]:
    """Every distinct size that the groups can make, up to a common factor."""
    shared: dict[tuple[str, int], dict[str, int]] = {}
    for group in groups:
        for member in group.members:
            multiples = shared.setdefault((member.tensor, member.dim), {})
            multiples[group.name] = multiples.get(group.name, 0) + len(member.indices[0])
    distinct: dict[Size, None] = {((group.name, 1),): None for group in groups}
    for multiples in shared.values():
        common = gcd(*multiples.values())
        distinct[tuple(sorted((name, m // common) for name, m in multiples.items()))] = None
    return list(distinct)


def is_regular(group: Group) -> bool:
    """Whether all units are alike, so that the width alone gives every size."""
    return all(len({len(unit) for unit in member.indices}) == 1 for member in group.members)


def solve(
    samples: Sequence[Sequence[int]], widths: Sequence[Widths], known: Sequence[Size]
) -> dict[int, Affine] | None:
    """The numbers that vary between the samples, each as an affine function of one size.

    A multiple of a size is preferred to a function with an offset: narrow groups leave little to
    choose from. The caller checks the result on samples that had no part in it.

    Args:
        samples: per sample, all numbers of its graph.
        widths: per sample, the width of every group.
        known: the sizes to choose from.

    Returns:
        position -> function, or None where several sizes explain a number differently, so that
        another sample is needed.

    Raises:
        SkeletonError: no size explains a number.
    """
    measured = [(size, [measure(size, w) for w in widths]) for size in known]
    solved: dict[int, Affine] = {}
    for position, values in enumerate(zip(*samples, strict=True)):
        if len(set(values)) == 1:
            continue
        fits = [fit for size, x in measured if (fit := _fit(size, x, values)) is not None]
        if not fits:
            raise SkeletonError(f"number {position} must be affine in a size, but got {values}")
        plain = [fit for fit in fits if fit.offset == 0] or fits
        if len(plain) > 1:
            return None
        solved[position] = plain[0]
    return solved


def _fit(size: Size, x: Sequence[int], y: Sequence[int]) -> Affine | None:
    other = next((i for i in range(1, len(x)) if x[i] != x[0]), None)
    if other is None:
        return None
    slope = Fraction(y[other] - y[0], x[other] - x[0])
    if slope <= 0 or 1 not in (slope.numerator, slope.denominator):
        return None
    offset = y[0] - slope * x[0]
    if any(offset + slope * a != b for a, b in zip(x, y, strict=True)):
        return None
    return Affine(offset, slope, size)
