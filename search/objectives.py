"""Objectives: what a model is judged by. Criteria, scores and fine-tuning use nothing else.

| symbol | meaning | shape |
|---|---|---|
| outputs | class scores of a model | (B, classes) |
| targets | what they are compared with; each objective has its own | (B, …) |
| taught | class scores of the dense model | (B, classes) |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from search.training_flags import in_evaluation


class Objective(Protocol):
    """A loss, a metric, and a way to learn from the dense model.

    Attributes:
        metric: what the share of right answers is called.
    """

    metric: str

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each example, (B,); lower is better."""
        ...

    def saliency(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A mean loss whose gradient tells at the dense model what its answers hang on."""
        ...

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Which answers are right, (B,) of booleans."""
        ...

    def distillation(
        self, outputs: Tensor, taught: Tensor, targets: Tensor, temperature: float, weight: float
    ) -> Tensor:
        """The loss that a student learns by, the mean over the batch.

        Args:
            temperature: both scores are divided by it before the softmax.
            weight: of the part that comes from the dense model, where there is another.
        """
        ...


class Classification:
    """Class indices as targets; cross entropy, accuracy."""

    metric = "accuracy"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, reduction="none")

    def saliency(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets)

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets

    def distillation(
        self, outputs: Tensor, taught: Tensor, targets: Tensor, temperature: float, weight: float
    ) -> Tensor:
        """(1 − w) · CE + w · T² · KL(taught/T ‖ outputs/T) (Hinton et al. 2015)."""
        hard = functional.cross_entropy(outputs, targets)
        soft = _softened(outputs, taught, temperature)
        return (1 - weight) * hard + weight * soft


class Unlabelled:
    """Scores of the dense model as targets: Kullback–Leibler distance to them, and agreement with
    its answers."""

    metric = "agreement with the dense network"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = functional.log_softmax(targets, 1)
        found = functional.log_softmax(outputs, 1)
        return functional.kl_div(found, wanted, reduction="none", log_target=True).sum(1)

    def saliency(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets.argmax(1))  # the distance is flat there

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets.argmax(1)

    def distillation(
        self, outputs: Tensor, taught: Tensor, targets: Tensor, temperature: float, weight: float
    ) -> Tensor:
        """T² · KL(taught/T ‖ outputs/T): of augmented images the dense model's scores count."""
        return _softened(outputs, taught, temperature)


CLASSIFICATION: Objective = Classification()
UNLABELLED: Objective = Unlabelled()


def scores_of(dense: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """The targets of `UNLABELLED`: what the dense model says of inputs, (N, classes)."""
    with in_evaluation(dense), torch.no_grad():
        return torch.cat([dense(inputs).float() for inputs in batches])


def _softened(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    return temperature**2 * functional.kl_div(
        functional.log_softmax(outputs / temperature, 1),
        functional.log_softmax(taught / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
