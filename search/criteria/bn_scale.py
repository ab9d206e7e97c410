"""BN scale: a unit is worth the absolute gain of the batch norms that run over it (Liu et al.
2017, "network slimming", arXiv:1708.06519).

| symbol | meaning | shape |
|---|---|---|
| γ | the gain of one batch norm over the units of a group | (W_g,) |
| score | the reduction over these norms of abs(γ) / mean(abs(γ)) | (W_g,) |

A group without such a norm is scored by `l1`, which is as relative as this is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # private: BatchNorm1d to 3d, SyncBatchNorm

from search.criteria.l1 import l1_of
from search.criteria.reduction import member_values, reduced, weights_of
from search.errors import CriterionError

if TYPE_CHECKING:
    from search.graph import PruningGraph


def bn_scale_scores(
    model: nn.Module, graph: PruningGraph, reduction: str = "mean"
) -> dict[str, Tensor]:
    """(W_g,) per prunable group, relative to the group's mean, so groups do not compare.

    Raises:
        CriterionError: no group has a batch norm with gains.
    """
    state = model.state_dict()
    gains = {
        f"{name}.weight"
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm)
    }
    found = {}
    for group in graph.prunable:
        norms = [member for member in group.members if member.tensor in gains]
        values = [member_values(weights_of(state, m).abs(), m) for m in norms]
        if values:
            found[group.name] = reduced(values, reduction)
    if graph.prunable and not found:
        raise CriterionError(
            "bn_scale must be given a model with batch norms over its units, but no group has one"
        )
    rest = (group for group in graph.prunable if group.name not in found)
    return found | {group.name: l1_of(state, group, reduction) for group in rest}
