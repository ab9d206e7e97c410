"""Plans to try: half of every group, and random ones. Knows groups only by name, width and
parts."""

from __future__ import annotations

import random
from collections.abc import Collection

from search import Plan, PruningGraph
from search.plan import best_of

EXACT = frozenset({"prunable"})
ALL = frozenset({"prunable", "approximate"})


def half_plan(graph: PruningGraph, statuses: Collection[str] = ALL) -> Plan:
    """Every second unit of each group of `statuses` goes; all others stay."""
    kept = dict(graph.dense_plan().kept)
    for group in graph.groups:
        if group.status in statuses and group.width > 1:
            order = [*range(0, group.width, 2), *range(1, group.width, 2)]
            kept[group.name] = best_of(order, (group.width + 1) // 2, group.required_any_of)
    return Plan(kept)


def random_plan(graph: PruningGraph, seed: int = 0) -> Plan:
    """Random widths from a quarter up to whole, of random units."""
    source = random.Random(seed)
    kept = dict(graph.dense_plan().kept)
    for group in graph.groups:
        if group.status in ALL and group.width > 1:
            width = source.randint(max(group.min_width, group.width // 4), group.width)
            order = source.sample(range(group.width), group.width)
            kept[group.name] = best_of(order, width, group.required_any_of)
    return Plan(kept)


def other_plan(graph: PruningGraph, plan: Plan) -> Plan:
    """As many units of every group as `plan` keeps, but others: for the negative control."""
    kept = dict(plan.kept)
    for group in graph.groups:
        units = plan.kept[group.name]
        if len(units) < group.width:
            gone = sorted(set(range(group.width)) - set(units))
            kept[group.name] = best_of([*gone, *units], len(units), group.required_any_of)
    return Plan(kept)
