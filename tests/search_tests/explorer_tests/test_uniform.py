"""The uniformly thinner network beside the tree."""

from __future__ import annotations

import pytest

from search.explorer import Explorer, SearchConfig
from tests.search_tests.explorer_tests.simulation import (
    FLOORS,
    GROUPS,
    Device,
    drive,
    relax,
    scores,
)


def explorer_of(budget: float, device: Device, *, uniform: bool = True) -> Explorer:
    config = SearchConfig(budget, beam_width=2, children=3, levels=2, uniform=uniform)
    made = Explorer(config, GROUPS, device.importance, FLOORS, relax=relax)
    return drive(made, device)


@pytest.mark.parametrize("budget", [0.4, 0.6, 0.8])
def test_every_group_keeps_the_same_part_and_the_slowest_within_the_budget_is_scored(
    budget: float,
) -> None:
    nodes = explorer_of(budget, Device(importance=scores(1))).nodes()
    tried = [node for node in nodes if node.origin == "uniform"]
    assert 1 <= len(tried) <= 4
    for node in tried:
        parts = [node.widths[group.name] / group.width for group in GROUPS]
        assert max(parts) - min(parts) <= 1 / 8 + 1e-9  # groups are rounded to eighths
    (scored,) = [node for node in tried if node.loss is not None]
    ratios = [node.ratio for node in tried if node.ratio is not None]
    assert scored.ratio == max(ratio for ratio in ratios if ratio <= budget)
    slower = [node for node in tried if node.ratio is not None and node.ratio > budget]
    for node in slower:  # the next sixteenth
        assert sum(node.widths.values()) > sum(scored.widths.values())


def test_it_is_left_out_where_it_is_not_wanted() -> None:
    nodes = explorer_of(0.6, Device(importance=scores(1)), uniform=False).nodes()
    assert all(node.origin != "uniform" for node in nodes)
