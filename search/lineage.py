"""Weights that are handed down: what a pruned model has learnt, put back into the dense one.

A candidate is cut from a full-size model. Where its parent was fine-tuned, that model is the dense
one with the parent's weights in the places that the parent kept; a unit that a child gets back has
the dense weights. Its layers are fitted to what they gave in the parent: fitted to the dense model
they would lose what the parent has learnt (docs/benchmarks, "Entwined fine-tuning").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.errors import WeightsError
from search.plan import Plan
from search.statistics_correction import KeptIndices
from search.surgery import kept_indices, prune
from search.tensors import copy_with, named_tensors

if TYPE_CHECKING:
    from search.graph import PruningGraph


@dataclass(frozen=True)
class Origin:
    """What candidates are cut from.

    Attributes:
        full: of the dense model's size; not to be changed.
        parent: whose layers theirs are fitted to, cut to `plan`.
        plan: of the parent.
    """

    full: nn.Module
    parent: nn.Module
    plan: Plan

    @classmethod
    def of(
        cls, model: nn.Module, graph: PruningGraph, plan: Plan, weights: Mapping[str, Tensor]
    ) -> Origin:
        """The origin of the children of a trained node; see `regrown` for the arguments."""
        full = regrown(model, graph, plan, weights)
        return cls(full, prune(full, graph, plan, free_sizes=False).eval(), plan)

    def kept_of_parent(
        self, graph: PruningGraph, kept: KeptIndices, tensors: Mapping[str, tuple[int, ...]]
    ) -> dict[str, dict[int, list[int]]]:
        """Tensor -> {0: which of the parent's outputs a child keeps}, for the tensors of which the
        parent has all that the child keeps.

        Args:
            graph: the analysis.
            kept: of the child, see `surgery.kept_indices`.
            tensors: name -> shape, of the dense model.
        """
        parents = kept_indices(graph, self.plan)
        found = {}
        for name, shape in tensors.items():
            every = range(shape[0]) if shape else range(0)
            mine = kept.get(name, {}).get(0, every)
            theirs = {index: at for at, index in enumerate(parents.get(name, {}).get(0, every))}
            if all(index in theirs for index in mine):
                found[name] = {0: [theirs[index] for index in mine]}
        return found


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
