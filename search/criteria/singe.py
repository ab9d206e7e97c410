"""SInGE: a unit is worth the gradient that is met on the way to its removal.

After Yvinec et al. 2022 ("SInGE: Sparsity via integrated gradients estimation of neuron
relevance", arXiv:2207.04089): first-order Taylor knows the loss near the whole unit only; here the
gradient is integrated along a path that shrinks the unit to nothing. As in `taylor`, a unit is
shrunk at the columns that read it, whatever lies before. Knows nothing of plans.

| symbol | meaning | shape |
|---|---|---|
| t | what is left of a unit: 1, μ, μ², … and at last 0 | |
| g(t) | t ↦ sum of w · ∂L/∂w over the columns of a unit, w the whole ones, L at t · w | (W_g,) |
| score | mean over parts of the integral of abs(g) over t, by trapezoids | (W_g,) |

A part is `PART` images, as in `taylor`. For a loss that is quadratic in t, trapezoids are exact
where g keeps its sign, and the score is then the change of loss itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from search.criteria.reduction import places_of, reading_members
from search.criteria.taylor import PART, parts_of
from search.errors import CriterionError
from search.objectives import CLASSIFICATION, Objective
from search.tensors import named_tensors
from search.training_flags import in_evaluation

if TYPE_CHECKING:
    from search.graph import Group, PruningGraph

MU = 0.5
STEPS = 3  # of the path
EXAMPLES = 128


def singe_scores(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[tuple[Tensor, Tensor]],
    objective: Objective = CLASSIFICATION,
    *,
    paths: int = 1,
    examples: int = EXAMPLES,
) -> dict[str, Tensor]:
    """(W_g,) per prunable group, in units of the loss, so that groups compare.

    It costs `STEPS` + 1 passes a group, path and part.

    Args:
        model: left as it is; gradients are not accumulated in it.
        graph: the graph of the model.
        batches: images and targets of the objective, class labels for one.
        objective: what the model is judged by.
        paths: so many paths a group, each of which shrinks its share of the units together. One
            is the cheapest; as many as units (or more) shrink each unit alone.
        examples: at most so many of the images are used.

    Raises:
        CriterionError: no batch.
    """
    parts = list(islice(parts_of(batches), -(-examples // PART)))
    if not parts:
        raise CriterionError("singe must be given at least one batch, but got none")
    tensors = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    with in_evaluation(model):
        return {
            group.name: torch.stack(
                [_integral(_Shrinking(model, tensors, group, objective), *part, paths)
                 for part in parts]
            ).mean(0)
            for group in graph.prunable
        }  # fmt: skip


class _Shrinking:
    """The loss of a model whose units of one group are scaled."""

    def __init__(
        self,
        model: nn.Module,
        tensors: Mapping[str, Tensor],
        group: Group,
        objective: Objective,
    ) -> None:
        self._model, self._tensors, self._objective = model, tensors, objective
        self.width = group.width
        self._readers = [(member, *places_of(member)) for member in reading_members(group)]

    def gradient(self, left: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """g of every unit, (W_g,), where this much of each is left, (W_g,)."""
        gate = left.clone().requires_grad_()
        scaled = dict[str, Tensor]()
        for member, index, unit in self._readers:
            tensor = scaled.get(member.tensor, self._tensors[member.tensor])
            shape = [1] * tensor.ndim
            shape[member.dim] = -1
            factors = tensor.new_ones(tensor.shape[member.dim])
            factors = factors.index_copy(0, index, gate[unit].to(tensor))
            scaled[member.tensor] = tensor * factors.reshape(shape)
        outputs = functional_call(self._model, scaled, (images,))
        loss = self._objective.saliency(outputs.float(), targets)
        (found,) = torch.autograd.grad(loss, gate, allow_unused=True, materialize_grads=True)
        return found


def _integral(shrinking: _Shrinking, images: Tensor, targets: Tensor, paths: int) -> Tensor:
    """Of abs(g) from 0 to 1 on one part, (W_g,)."""
    whole = torch.ones(shrinking.width, dtype=torch.float64)
    at_whole = shrinking.gradient(whole, images, targets).abs()
    total = torch.zeros_like(whole)
    for units in _shares(shrinking.width, paths):
        before = at_whole[units]
        for left, next_left in pairwise(_path()):
            gate = whole.clone()
            gate[units] = next_left
            after = shrinking.gradient(gate, images, targets)[units].abs()
            total[units] += (left - next_left) * (before + after) / 2
            before = after
    return total


def _path() -> list[float]:
    return [*(MU**step for step in range(STEPS)), 0.0]


def _shares(width: int, paths: int) -> Iterator[Tensor]:
    for first in range(min(width, paths)):
        yield torch.arange(first, width, paths)
