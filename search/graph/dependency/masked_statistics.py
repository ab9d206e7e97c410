"""Whether norms and means count the units that are gone: then hardly anything is approximate.

They run over the units that are left where that still leaves much to cut exactly, because then
the model can stay of its own class. Where a statistic runs over nearly all groups, they count the
others as zeros, which only a `PrunedGraph` can.

Rare case. Models: norms or means over the units of nearly every group; of
benchmarks/coverage/models.txt gmlp_ti16_224, ConvNextV2Model and mobilenetv5_base (see
docs/decisions/0012). convnext_atto and mixer_s32_224 do not need it.
Without it: nearly all of their groups are approximate.
Tests: dependency_tests/test_masked_statistics.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from search.graph.dependency.costs import mac_products
from search.graph.dependency.grouping import Grouping, form_groups
from search.graph.dependency.labels import Atoms, KeepMask
from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import Exported

ENOUGH = 0.25  # of what all groups at half width remove


def with_counted(exported: Exported, propagation: Propagation) -> Propagation:
    """The propagation, in which statistics count units where little could be cut exactly."""
    grouping = form_groups(propagation)
    whole = _left(exported, propagation, np.ones(propagation.atoms, bool))
    exact = whole - _left(exported, propagation, _half(grouping, ("prunable",)))
    most = whole - _left(exported, propagation, _half(grouping, ("prunable", "approximate")))
    if exact >= ENOUGH * most:
        return propagation
    return replace(propagation, counted=_countable(propagation, grouping))


def _countable(propagation: Propagation, grouping: Grouping) -> Atoms:
    """The atoms of groups that nothing but such statistics makes approximate."""
    groups = {
        int(group)
        for effect in propagation.effects
        for atoms, _ in effect.approximations
        for group in np.unique(grouping.group_of[atoms])
    }
    free = ~np.isin(grouping.group_of, sorted(groups | {-1}))
    return np.flatnonzero(free)


def _half(grouping: Grouping, statuses: tuple[str, ...]) -> KeepMask:
    """Atom -> whether it stays when every second unit of the groups of `statuses` goes."""
    chosen = np.array([*(group.status in statuses for group in grouping.groups), False])
    kept: KeepMask = ~chosen[grouping.group_of] | (grouping.unit_of % 2 == 0)
    return kept


def _left(exported: Exported, propagation: Propagation, kept: KeepMask) -> int:
    return sum(product.at(kept) for product in mac_products(propagation, dynamic=exported.dynamic))
