"""L2: a unit is worth the Euclidean norm of its weights (He et al. 2018, arXiv:1808.06866)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from search.criteria.reduction import member_values, reduced, scoring_members, weights_of

if TYPE_CHECKING:
    from search.graph import PruningGraph


def l2_scores(model: nn.Module, graph: PruningGraph, reduction: str = "mean") -> dict[str, Tensor]:
    """(W_g,) per prunable group, relative to the group's mean, so groups do not compare."""
    state = model.state_dict()
    return {
        group.name: reduced(
            [member_values(weights_of(state, m) ** 2, m).sqrt() for m in scoring_members(group)],
            reduction,
        )
        for group in graph.prunable
    }
