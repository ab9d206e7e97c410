"""Trusts a group only after cutting it: all groups at once, halving the set where that fails.

| symbol | meaning |
|---|---|
| CONTROL | a unit must matter by at least this many tolerances, or the comparison proves nothing |
| ROUNDS | how often parameters and plan are drawn; the last ones only for groups not yet proven |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from search.graph.exporting import Exported
from search.graph.program import Program
from search.graph.propagation import Propagation
from search.graph.pruning_graph import PruningGraph
from search.graph.trials import TOLERANCE, NumberTrial, ShapeTrial

CONTROL = 100
ROUNDS, EXTRA_ROUNDS = 2, 3

LATE = "unverified: the time limit was reached first"
IDLE = "unverified: the output does not depend on its units"

Problem: TypeAlias = Callable[[Sequence[str]], str | None]


def settle(
    graph: PruningGraph, exported: Exported, found: Propagation, expired: Callable[[], bool]
) -> PruningGraph:
    """Freeze what cannot be trusted, and tell the form of the rest.

    Groups that the user's own class cannot lose, because its forward holds constants, are tried
    once more on the exported graph. Takes the arguments of `verify`.
    """
    own = verify(graph, exported, found, expired)
    if all(reason in (LATE, IDLE) for reason in own.values()):
        return frozen_by(graph, own)
    as_graph = replace(
        graph,
        groups=tuple(replace(group, form="graph") for group in graph.groups),
        program=Program(exported, found),
    )
    whole = verify(as_graph, exported, found, expired)
    if len(whole) >= len(own):
        return frozen_by(graph, own)
    groups = tuple(
        replace(group, form="graph" if group.name in own else "module") for group in graph.groups
    )
    return frozen_by(replace(as_graph, groups=groups), whole)


def verify(
    graph: PruningGraph, exported: Exported, found: Propagation, expired: Callable[[], bool]
) -> dict[str, str]:
    """Find the groups that cannot be trusted.

    Shapes first, which is cheap; then numbers, on parameters drawn anew in every round. In a
    round the pruned copy must equal the reference within TOLERANCE, and as a negative control the
    output must depend on the units of the group in at least one round.

    Args:
        graph: the analysis of a float64 copy; the copy's parameters are overwritten.
        exported: the dense graph.
        found: its labels.
        expired: tells that the time is over; asked before every step.

    Returns:
        Group name -> the reason why it must be frozen.
    """
    halving = Halving(expired)
    names = [group.name for group in graph.prunable]
    shapes = ShapeTrial(graph)
    if shapes.possible:
        names = halving.keep(names, shapes.problem)
    proven: set[str] = set()
    for seed in range(ROUNDS + EXTRA_ROUNDS):
        names = [name for name in names if seed < ROUNDS or name not in proven]
        if not names or expired():
            break
        trial = NumberTrial(graph, exported, found, seed)
        trial.influence.update(dict.fromkeys(proven, math.inf))
        names = halving.keep(names, trial.problem)
        strong = {name for name, value in trial.influence.items() if value >= CONTROL * TOLERANCE}
        proven |= strong.intersection(names)
    idle = [group.name for group in graph.prunable if group.name not in proven]
    reason = LATE if expired() else IDLE
    return dict.fromkeys(idle, reason) | halving.reasons


class Halving:
    """Finds the groups that stand a trial together, and the reason why each other one does not."""

    def __init__(self, expired: Callable[[], bool]) -> None:
        self.reasons: dict[str, str] = {}
        self._expired = expired

    def keep(self, names: list[str], problem: Problem) -> list[str]:
        """The groups of `names` that pass `problem`, jointly."""
        told = self._ask(names, problem)
        if told is None:
            return names
        if len(names) == 1 or told == LATE:
            self._freeze(names, told)
            return []
        half = len(names) // 2
        first, second = self.keep(names[:half], problem), self.keep(names[half:], problem)
        if not first or not second or len(first + second) == len(names):
            return self._settle(first, second, told if first and second else None)
        return self._settle(first, second, self._ask(first + second, problem))

    def _settle(self, first: list[str], second: list[str], told: str | None) -> list[str]:
        if told is None:
            return first + second
        self._freeze(second, told if told == LATE else f"beside {first[0]}, {told}")
        return first

    def _ask(self, names: list[str], problem: Problem) -> str | None:
        if not names:
            return None
        return LATE if self._expired() else problem(names)

    def _freeze(self, names: list[str], told: str) -> None:
        reason = told if told == LATE else f"unverified: {told}"
        self.reasons |= dict.fromkeys(names, reason)


def frozen_by(graph: PruningGraph, reasons: dict[str, str]) -> PruningGraph:
    """The graph with the groups of `reasons` frozen."""
    groups = tuple(
        replace(group, status="frozen", reason=reasons[group.name])
        if group.name in reasons
        else group
        for group in graph.groups
    )
    return replace(graph, groups=groups)
