"""Which dimension carries the units where a reshape leaves a choice: heads or head dimensions.

The best guess comes first; where it freezes, the next one is tried, of convolutions, of reshapes
and of both, and the walk that lets the most multiply-accumulates go is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import fx

from search.graph.dependency.costs import mac_products
from search.graph.dependency.grouping import Grouping, form_groups
from search.graph.dependency.labels import FIXED, KeepMask
from search.graph.dependency.masked_statistics import with_counted
from search.graph.dependency.operators.operator import Operator
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.dependency.propagation import Propagation, propagate
from search.graph.exported.export import Exported
from search.graph.exported.nodes import operator_name

ROUNDS = 3

Choices: TypeAlias = Mapping[fx.Node, int]


def analysed(
    exported: Exported, aliases: Mapping[str, str], operators: Mapping[str, Operator] = OPERATORS
) -> Propagation:
    """Propagate with the choices that freeze the least.

    Args:
        exported: the model's graph.
        aliases: name of a parameter -> the first name of the same tensor.
        operators: operator -> its record.
    """

    def walk(choices: Choices) -> _Walk:
        propagation = propagate(exported, aliases, operators, choices)
        grouping = form_groups(propagation)
        return _Walk(choices, propagation, grouping, _left(propagation, grouping, exported))

    best = last = walk({})
    for _ in range(ROUNDS):
        flips = _frozen_choices(last.propagation, last.grouping, last.choices)
        if not flips:
            break
        last = min((walk({**last.choices, **part}) for part in _parts(flips)), key=_left_over)
        best = min(best, last, key=_left_over)
    return with_counted(exported, best.propagation)


@dataclass(frozen=True, eq=False)
class _Walk:
    """What one set of choices leads to, and what is left then: see `_left`."""

    choices: Choices
    propagation: Propagation
    grouping: Grouping
    left: tuple[int, int]


def _left_over(walk: _Walk) -> tuple[int, int]:
    return walk.left


def _parts(flips: Choices) -> list[Choices]:
    """All flips; where there are convolutions and reshapes among them, those of each too."""
    convolutions = {node: n for node, n in flips.items() if operator_name(node).startswith("conv")}
    reshapes = {node: n for node, n in flips.items() if node not in convolutions}
    return [flips, convolutions, reshapes] if convolutions and reshapes else [flips]


def _frozen_choices(
    propagation: Propagation, grouping: Grouping, choices: Choices
) -> dict[fx.Node, int]:
    """The next alternative of every node whose units ended up frozen."""
    frozen = _in_group(grouping, "frozen") | _stuck(grouping)
    return {
        node: choices.get(node, 0) + 1
        for node, (atoms, alternatives) in propagation.choices.items()
        if choices.get(node, 0) + 1 < alternatives and bool(frozen[atoms[atoms != FIXED]].any())
    }


def _left(propagation: Propagation, grouping: Grouping, exported: Exported) -> tuple[int, int]:
    """The multiply-accumulates that are left when all groups go that may, and half of each."""
    gone = _in_group(grouping, "prunable") | _in_group(grouping, "approximate")
    gone &= ~_stuck(grouping)
    products = mac_products(propagation, dynamic=exported.dynamic)
    all_gone, half = ~gone, ~gone | (grouping.unit_of % 2 == 0)
    return sum(p.at(all_gone) for p in products), sum(p.at(half) for p in products)


def _stuck(grouping: Grouping) -> KeepMask:
    """Atom -> whether its unit cannot go, because some tensor has no other."""
    stuck = np.zeros(len(grouping.group_of), bool)
    for number, group in enumerate(grouping.groups):
        for unit in {part[0] for part in group.required_any_of if len(part) == 1}:
            stuck |= (grouping.group_of == number) & (grouping.unit_of == unit)
    return stuck


def _in_group(grouping: Grouping, status: str) -> KeepMask:
    chosen = np.array([*(group.status == status for group in grouping.groups), False])
    inside: KeepMask = chosen[grouping.group_of]
    return inside
