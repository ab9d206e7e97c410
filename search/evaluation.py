"""Loss and accuracy of a classifier over batches, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from search.errors import ConfigError
from search.training_flags import in_evaluation

Batches = Iterable[tuple[Tensor, Tensor]]


def loss_with_error(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Mean cross entropy per image, in eval mode, and its standard error."""
    losses = []
    with in_evaluation(model), torch.no_grad():
        for images, labels in batches:
            logits = model(images).float()
            losses.append(functional.cross_entropy(logits, labels, reduction="none").double())
    if not losses:
        raise ConfigError("batches must hold at least one image, but got none")
    each = torch.cat(losses)
    return float(each.mean()), float(each.std(correction=0)) / len(each) ** 0.5


def _totals(model: nn.Module, batches: Batches) -> tuple[float, int, int]:
    """Summed cross entropy, images classified right, images."""
    loss, right, count = 0.0, 0, 0
    with in_evaluation(model), torch.no_grad():
        for images, labels in batches:
            logits = model(images).float()
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    if count == 0:
        raise ConfigError("batches must hold at least one image, but got none")
    return loss, right, count


def cross_entropy_loss(model: nn.Module, batches: Batches) -> float:
    """Mean cross entropy per image, in eval mode."""
    loss, _, count = _totals(model, batches)
    return loss / count


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Share of images whose label has the largest logit, in eval mode."""
    _, right, count = _totals(model, batches)
    return right / count
