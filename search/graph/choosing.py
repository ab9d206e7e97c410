"""Which dimension carries the units where a reshape leaves a choice: heads or head dimensions.

The best guess comes first; where it freezes, the next one is tried, and the walk that lets the
most multiply-accumulates go is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import fx

from search.graph.call import Rule
from search.graph.costs import Kept, mac_products
from search.graph.exporting import Exported
from search.graph.grouping import Grouping, form_groups
from search.graph.labels import FIXED
from search.graph.propagation import Propagation, propagate
from search.graph.rules.table import RULES

ROUNDS = 3


def analysed(
    exported: Exported, aliases: Mapping[str, str], rules: Mapping[str, Rule] = RULES
) -> Propagation:
    """Propagate with the choices that freeze the least.

    Args:
        exported: the model's graph.
        aliases: name of a parameter -> the first name of the same tensor.
        rules: operator -> rule.
    """
    choices: dict[fx.Node, int] = {}
    found = propagate(exported, aliases, rules)
    grouping = form_groups(found)
    best, least = found, _left(found, grouping, exported)
    for _ in range(ROUNDS):
        flips = _frozen_choices(found, grouping, choices)
        if not flips:
            break
        choices |= flips
        found = propagate(exported, aliases, rules, choices)
        grouping = form_groups(found)
        left = _left(found, grouping, exported)
        if left < least:
            best, least = found, left
    return best


def _frozen_choices(
    found: Propagation, grouping: Grouping, choices: Mapping[fx.Node, int]
) -> dict[fx.Node, int]:
    """The next alternative of every node whose units ended up frozen."""
    frozen = _in_group(grouping, "frozen")
    return {
        node: choices.get(node, 0) + 1
        for node, (atoms, alternatives) in found.choices.items()
        if choices.get(node, 0) + 1 < alternatives and bool(frozen[atoms[atoms != FIXED]].any())
    }


def _left(found: Propagation, grouping: Grouping, exported: Exported) -> int:
    """The multiply-accumulates that are left when all groups go that may."""
    kept = ~(_in_group(grouping, "prunable") | _in_group(grouping, "approximate"))
    products = mac_products(found, dynamic=exported.dynamic)
    return sum(product.at(kept) for product in products)


def _in_group(grouping: Grouping, status: str) -> Kept:
    chosen = np.array([*(group.status == status for group in grouping.groups), False])
    inside: Kept = chosen[grouping.group_of]
    return inside
