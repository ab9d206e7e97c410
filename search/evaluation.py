"""Loss and share of right answers of a model over batches, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search.errors import ConfigError
from search.objectives import CLASSIFICATION, Objective
from search.training_flags import in_evaluation

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Judgement:
    """Mean loss per example, and the share of right answers."""

    loss: float
    accuracy: float

    def is_worse_than(self, other: Judgement) -> bool:
        """Fewer right answers, or as many at a greater loss or one that is not a number."""
        if self.accuracy != other.accuracy:
            return self.accuracy < other.accuracy
        return not self.loss <= other.loss


def judge(model: nn.Module, batches: Batches, objective: Objective = CLASSIFICATION) -> Judgement:
    """What a model is judged by, in eval mode."""
    losses, right = _each(model, batches, objective)
    return Judgement(float(losses.mean()), float(right.double().mean()))


def cross_entropy_loss(
    model: nn.Module, batches: Batches, objective: Objective = CLASSIFICATION
) -> float:
    """Mean loss per example, in eval mode: the cross entropy, or that of another objective."""
    return loss_with_error(model, batches, objective)[0]


def loss_with_error(
    model: nn.Module, batches: Batches, objective: Objective = CLASSIFICATION
) -> tuple[float, float]:
    """Mean loss per example, in eval mode, and its standard error."""
    losses = _each(model, batches, objective)[0]
    return float(losses.mean()), float(losses.std(correction=0)) / len(losses) ** 0.5


def accuracy(model: nn.Module, batches: Batches, objective: Objective = CLASSIFICATION) -> float:
    """Share of right answers, in eval mode."""
    return float(_each(model, batches, objective)[1].double().mean())


def _each(model: nn.Module, batches: Batches, objective: Objective) -> tuple[Tensor, Tensor]:
    """Loss and rightness of every example, (N,) each."""
    losses, right = [], []
    with in_evaluation(model), torch.no_grad():
        for inputs, targets in batches:
            outputs = model(inputs).float()
            losses.append(objective.losses(outputs, targets).double())
            right.append(objective.right(outputs, targets))
    if not losses or not sum(map(len, losses)):
        raise ConfigError("batches must hold at least one image, but got none")
    return torch.cat(losses), torch.cat(right)
