"""Weights that are handed down: what a pruned model has learnt, put back into the dense one.

A candidate is cut from a full-size model. Where its parent was fine-tuned, that model is the dense
one with the parent's weights in the places that the parent kept; a unit that a child gets back has
the dense weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.errors import WeightsError
from search.plan import Plan
from search.surgery import kept_indices
from search.tensors import copy_with, named_tensors

if TYPE_CHECKING:
    from search.graph import PruningGraph


def regrown(
    model: nn.Module, graph: PruningGraph, plan: Plan, weights: Mapping[str, Tensor]
) -> nn.Module:
    """A full-size copy of the dense model that has the weights of a pruned one where that has any.

    Args:
        model: the traced model; not touched.
        graph: its analysis.
        plan: of the pruned model.
        weights: its state: name -> tensor, cut to the plan; names that are not the model's own
            (of what a `PrunedGraph` adds) are left out, tensors that are missing stay dense.

    Raises:
        WeightsError: a tensor has another shape than the plan gives it.
    """
    kept, full = kept_indices(graph, plan), named_tensors(model)
    return copy_with(
        model,
        {
            name: _put_back(name, full[name], weights[name], kept.get(name, {}))
            for name in full.keys() & weights.keys()
        },
    )


def _put_back(name: str, dense: Tensor, trained: Tensor, kept: Mapping[int, list[int]]) -> Tensor:
    shape = tuple(len(kept.get(dim, range(size))) for dim, size in enumerate(dense.shape))
    if tuple(trained.shape) != shape:
        raise WeightsError(
            f"{name!r} must have the shape {shape} of its plan, but got {tuple(trained.shape)}"
        )
    if not kept:
        return trained.detach().to(dense).clone()
    places = [
        torch.tensor(kept[dim]) if dim in kept else torch.arange(size)
        for dim, size in enumerate(dense.shape)
    ]
    full = dense.detach().clone()
    full[torch.meshgrid(*places, indexing="ij")] = trained.detach().to(dense)
    return full
