"""Whether norms and means count the units that are gone: then hardly anything is approximate.

They run over the units that are left where that still leaves much to cut exactly, because then
the model can stay of its own class. Where a statistic runs over nearly all groups, they count the
others as zeros, which only a `PrunedGraph` can.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from search.graph.costs import Kept, mac_products
from search.graph.exporting import Exported
from search.graph.grouping import Grouping, form_groups
from search.graph.labels import Atoms
from search.graph.propagation import Propagation

ENOUGH = 0.25  # of what all groups at half width remove


def with_counted(exported: Exported, found: Propagation) -> Propagation:
    """What the walk found; where little of it can be cut exactly, statistics count units."""
    grouping = form_groups(found)
    whole = _left(exported, found, np.ones(found.atoms, bool))
    exact = whole - _left(exported, found, _half(grouping, ("prunable",)))
    most = whole - _left(exported, found, _half(grouping, ("prunable", "approximate")))
    if exact >= ENOUGH * most:
        return found
    return replace(found, counted=_countable(found, grouping))


def _countable(found: Propagation, grouping: Grouping) -> Atoms:
    """The atoms of groups that nothing but such statistics makes approximate."""
    groups = {
        int(group)
        for effect in found.effects
        for atoms, _ in effect.approximations
        for group in np.unique(grouping.group_of[atoms])
    }
    free = ~np.isin(grouping.group_of, sorted(groups | {-1}))
    return np.flatnonzero(free)


def _half(grouping: Grouping, statuses: tuple[str, ...]) -> Kept:
    """Atom -> whether it stays when every second unit of the groups of `statuses` goes."""
    chosen = np.array([*(group.status in statuses for group in grouping.groups), False])
    kept: Kept = ~chosen[grouping.group_of] | (grouping.unit_of % 2 == 0)
    return kept


def _left(exported: Exported, found: Propagation, kept: Kept) -> int:
    return sum(product.at(kept) for product in mac_products(found, dynamic=exported.dynamic))
