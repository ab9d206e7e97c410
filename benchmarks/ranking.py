"""How alike two rankings are: Kendall's τ, and how far it may be off."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import mean

BOOTSTRAPS = 2000

Pair = tuple[Sequence[float], Sequence[float]]


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """τ-b, which takes ties; None where one of the two has nothing but ties."""
    agreed, ranked_first, ranked_second = 0, 0, 0
    for i in range(len(first)):
        for j in range(i):
            one, two = _order(first[i], first[j]), _order(second[i], second[j])
            agreed += one * two
            ranked_first += one * one
            ranked_second += two * two
    if not ranked_first or not ranked_second:
        return None
    return float(agreed / (ranked_first * ranked_second) ** 0.5)


def _order(one: float, other: float) -> int:
    return (one > other) - (one < other)


def interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """95 % of τ by drawing items with replacement; one that is drawn twice counts once."""
    return mean_interval([(first, second)])


def mean_kendall(pairs: Sequence[Pair]) -> float | None:
    """The mean of τ over pairs of rankings; None where some pair has none."""
    found = [kendall(*pair) for pair in pairs]
    known = [value for value in found if value is not None]
    return mean(known) if known and len(known) == len(found) else None


def mean_interval(pairs: Sequence[Pair]) -> tuple[float, float]:
    """95 % of the mean of τ, items drawn within each pair; draws without a τ are left out."""
    source = random.Random(1)
    drawn = (mean_kendall([_drawn(source, pair) for pair in pairs]) for _ in range(BOOTSTRAPS))
    found = sorted(value for value in drawn if value is not None)
    return (found[len(found) // 40], found[-len(found) // 40]) if found else (-1.0, 1.0)


def _drawn(source: random.Random, pair: Pair) -> Pair:
    first, second = pair
    items = sorted(set(source.choices(range(len(first)), k=len(first))))
    return [first[i] for i in items], [second[i] for i in items]


def told(tau: float | None, form: Callable[[float], str] = "{:.2f}".format) -> str:
    """τ for a table; empty where there is none."""
    return "" if tau is None else form(tau)
