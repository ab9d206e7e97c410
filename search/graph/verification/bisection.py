"""TODO."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from search.graph.exported.deadline import LATE

Problem: TypeAlias = Callable[[Sequence[str]], str | None]
Families: TypeAlias = list[list[str]]


def family(name: str) -> str:
    """Groups whose names differ in an index only belong to blocks that are alike."""
    return re.sub(r"(^|(?<=\.))\d+(?=\.)", "#", name)


class Bisection:
    """Finds the groups that stand a trial together, and the reason why each other one does not.

    Attributes:
        most: after so many more trials, what failed together is refused together.
        failed: whether a trial has told a problem.
    """

    def __init__(self, family: Callable[[str], str] = str) -> None:
        self.reasons: dict[str, str] = {}
        self.most = math.inf
        self.failed = False
        self._family = family

    def keep(self, names: list[str], problem: Problem) -> list[str]:
        """The groups of `names` that pass `problem`, jointly."""
        families: dict[str, list[str]] = {}
        for name in names:
            families.setdefault(self._family(name), []).append(name)
        return _names(self._keep(list(families.values()), problem))

    def _keep(self, families: Families, problem: Problem) -> Families:
        told = self._ask(families, problem)
        if told is None:
            return families
        if len(families) == 1 or told == LATE or self.most <= 0:
            self._freeze(families, told)
            return []
        half = len(families) // 2
        first, second = self._keep(families[:half], problem), self._keep(families[half:], problem)
        if not first or not second or len(first + second) == len(families):
            return self._settle(first, second, told if first and second else None)
        return self._settle(first, second, self._ask(first + second, problem))

    def _settle(self, first: Families, second: Families, told: str | None) -> Families:
        if told is None:
            return first + second
        self._freeze(second, told if told == LATE else f"beside {first[0][0]}, {told}")
        return first

    def _ask(self, families: Families, problem: Problem) -> str | None:
        if not families:
            return None
        self.most -= 1
        told = problem(_names(families))
        self.failed |= told not in (None, LATE)
        return told

    def _freeze(self, families: Families, told: str) -> None:
        reason = told if told == LATE else f"unverified: {told}"
        self.reasons |= dict.fromkeys(_names(families), reason)


def _names(families: Families) -> list[str]:
    return [name for names in families for name in names]
