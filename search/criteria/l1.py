"""L1: a unit is worth the sum of its absolute weights (Li et al. 2017, arXiv:1608.08710)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from search.criteria.reduction import (
    mean_of_normalised,
    member_values,
    scoring_members,
    weights_of,
)

if TYPE_CHECKING:
    from search.graph import PruningGraph


def l1_scores(model: nn.Module, graph: PruningGraph) -> dict[str, Tensor]:
    """(W_g,) per prunable group; the mean over a group is 1, so groups do not compare."""
    state = model.state_dict()
    return {
        group.name: mean_of_normalised(
            [member_values(weights_of(state, m).abs(), m) for m in scoring_members(group)]
        )
        for group in graph.prunable
    }
