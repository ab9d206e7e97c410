"""Redundancy: a unit is worth what no other unit of its group expresses. No data.

After RED and RED++ (Yvinec et al. 2021, arXiv:2105.14797; 2022, arXiv:2110.01397), which merge
neurons with like weights: here likeness is a number. The most redundant unit leaves first, and the
rest is judged against those that are still there, so that of two twins one stays.

| symbol | meaning | shape |
|---|---|---|
| v | a unit's weights, batch norms folded in, with its offset (`search.unit_weights`) | (F,) |
| d(u, a) | the part of v_u that no positive multiple of v_a expresses (sine of their angle) | |
| score | norm(v_u) · min over the a that are left of d(u, a), over mean(norm(v)) | (W_g,) |

The least of these grows as units leave, so scores rank units as they leave. A group without layers
that create its units alone is scored by `l1`. Only positive multiples count, as behind a
rectifier; behind other functions a multiple is not an expression, and the score is optimistic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.criteria.l1 import l1_of
from search.unit_weights import UnitWeights, unit_weights

if TYPE_CHECKING:
    from search.graph import PruningGraph


def redundancy_scores(
    model: nn.Module, graph: PruningGraph, reduction: str = "mean"
) -> dict[str, Tensor]:
    """(W_g,) per prunable group, relative to the mean length of its units, so groups do not
    compare. `reduction` is of the groups that `l1` scores."""
    state, known = model.state_dict(), unit_weights(model, graph)
    return {
        group.name: _scores(known[group.name])
        if group.name in known
        else l1_of(state, group, reduction)
        for group in graph.prunable
    }


def _scores(weights: UnitWeights) -> Tensor:
    magnitude = weights.magnitude
    apart = weights.distances() * magnitude[:, None]
    apart.fill_diagonal_(torch.inf)
    scores = torch.zeros_like(magnitude)
    left = torch.ones_like(magnitude, dtype=torch.bool)
    nearest, at = apart.min(1)
    for _ in range(len(magnitude) - 1):
        lowest = nearest[left].min()
        equal = (left & (nearest == lowest)).nonzero().flatten()
        unit = int(equal[magnitude[equal].argmin()])  # of two multiples the longer stays
        scores[unit], left[unit] = lowest, False
        apart[:, unit] = torch.inf
        lost = left & (at == unit)
        nearest[lost], at[lost] = apart[lost].min(1)
    scores[left] = torch.maximum(magnitude[left], scores.max())
    return scores / mean if (mean := magnitude.mean()) > 0 else scores
