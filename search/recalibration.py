"""Statistics of a pruned model, brought back to what the dense model has.

Batch norm takes them from batches; other models are corrected layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # private: BatchNorm1d to 3d, SyncBatchNorm

from search.errors import ConfigError
from search.statistics_correction import KeptIndices, correct_moments
from search.training_flags import in_evaluation

Recalibration = Literal["batch norm", "mean and scale"]


@dataclass(frozen=True)
class DenseOrigin:
    """What a pruned model was cut from.

    Attributes:
        model: the dense model.
        kept: weight -> dimension -> the indices that are left, see `surgery.kept_indices`.
    """

    model: nn.Module
    kept: KeptIndices


def recalibration(model: nn.Module) -> Recalibration:
    """Which of the two `recalibrate` does to this model, and to those pruned from it."""
    return "batch norm" if _batch_norms(model) else "mean and scale"


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def recalibrate(
    model: nn.Module, batches: Iterable[Tensor], origin: DenseOrigin | None = None
) -> None:
    """Replaces batch norm's running statistics by their mean over the batches, in place.

    Every batch weighs alike (a cumulative average, no forgetting). Nothing else changes: dropout
    stays off and training flags are restored. A model without batch norm gets the means and
    scales of its `origin` back instead (see `statistics_correction`), or without one is left as
    it is.

    Raises:
        ConfigError: there is something to recalibrate, but no batch.
    """
    norms = _batch_norms(model)
    if not norms:
        if origin is not None:
            correct_moments(model, origin.model, origin.kept, batches)
        return
    momenta = [norm.momentum for norm in norms]
    seen = 0
    with in_evaluation(model), torch.no_grad():
        try:
            for images in batches:
                for norm in norms if seen == 0 else ():
                    norm.reset_running_stats()
                    norm.momentum = None
                    norm.train()
                model(images)
                seen += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if seen == 0:
        raise ConfigError("batches must hold at least one batch, but got none")
