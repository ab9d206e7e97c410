"""First-order Taylor: a unit is worth the change of loss that its removal predicts.

After Molchanov et al. 2019 (arXiv:1906.10771), read at the consumers: a unit is gone when the
columns that read it are, so that w · ∂L/∂w over those columns is its whole first-order effect,
whatever batch norm or depthwise layer lies before. Knows nothing of plans.

| symbol | meaning | shape |
|---|---|---|
| w, ∂L/∂w | a consumer's weight and its gradient, in eval mode, on one part | the tensor's |
| score | mean over parts of the absolute sum of w · ∂L/∂w over all columns of a unit | (W_g,) |

A part is `PART` images: in a trained model the gradients of many images cancel, and what is left
ranks units no better than chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.criteria.reduction import member_values, reading_members
from search.errors import CriterionError
from search.objectives import CLASSIFICATION, Objective
from search.training_flags import in_evaluation

if TYPE_CHECKING:
    from search.graph import Group, PruningGraph

PART = 8


def taylor_scores(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[tuple[Tensor, Tensor]],
    objective: Objective = CLASSIFICATION,
) -> dict[str, Tensor]:
    """(W_g,) per prunable group, in units of the loss, so that groups compare.

    Args:
        model: left as it is; gradients are not accumulated in it.
        graph: the graph of the model.
        batches: images and targets of the objective, class labels for one.
        objective: what the model is judged by.

    Raises:
        CriterionError: no batch.
    """
    parameters = dict(model.named_parameters())
    totals: dict[str, Tensor] = {}
    count = 0
    with in_evaluation(model):
        for images, labels in parts_of(batches):
            products = _products(model, parameters, images, labels, objective)
            for group in graph.prunable:
                effect = _effect(group, products).abs()
                totals[group.name] = totals.get(group.name, torch.zeros_like(effect)) + effect
            count += 1
    if count == 0:
        raise CriterionError("taylor must be given at least one batch, but got none")
    return {name: total / count for name, total in totals.items()}


def parts_of(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches, cut into parts of `PART` images."""
    for images, labels in batches:
        yield from zip(torch.split(images, PART), torch.split(labels, PART), strict=True)


def _products(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    images: Tensor,
    labels: Tensor,
    objective: Objective,
) -> dict[str, Tensor]:
    """w · ∂L/∂w per parameter."""
    learned = {name: p for name, p in parameters.items() if p.requires_grad}
    loss = objective.saliency(model(images).float(), labels)
    gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    return {
        name: (parameter.detach() * gradient).double()
        for (name, parameter), gradient in zip(learned.items(), gradients, strict=True)
        if gradient is not None
    }


def _effect(group: Group, products: dict[str, Tensor]) -> Tensor:
    members = [m for m in reading_members(group) if m.tensor in products]
    if not members:
        raise CriterionError(f"group {group.name!r} must have a parameter with a gradient")
    return torch.stack([member_values(products[m.tensor], m) for m in members]).sum(0)
