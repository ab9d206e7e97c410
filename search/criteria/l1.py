"""L1: a unit is worth the sum of its absolute weights (Li et al. 2017, arXiv:1608.08710)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from search.criteria.reduction import member_values, reduced, scoring_members, weights_of

if TYPE_CHECKING:
    from search.graph import Group, PruningGraph


def l1_scores(model: nn.Module, graph: PruningGraph, reduction: str = "mean") -> dict[str, Tensor]:
    """(W_g,) per prunable group, relative to the group's mean, so groups do not compare."""
    state = model.state_dict()
    return {group.name: l1_of(state, group, reduction) for group in graph.prunable}


def l1_of(state: Mapping[str, Tensor], group: Group, reduction: str) -> Tensor:
    """(W_g,) of one group."""
    members = scoring_members(group)
    return reduced([member_values(weights_of(state, m).abs(), m) for m in members], reduction)
