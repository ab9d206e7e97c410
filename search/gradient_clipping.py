"""Gradients clipped by the size of the weights, for networks that batch norm does not keep in
bounds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

# As Brock et al. 2021; what other parts give is in docs/benchmarks.md, "Fine-tuning without batch
# norm".
PART = 0.01
_LEAST_NORM = 1e-3  # of weights that are zero


@torch.no_grad()
def clip_by_weights(parameters: Iterable[nn.Parameter], part: float = PART) -> None:
    """Scales gradients in place: the norm of none exceeds `part` of that of its weights.

    Adaptive gradient clipping ("High-Performance Large-Scale Image Recognition Without
    Normalization", Brock et al. 2021, §4.1), by tensor instead of by row.
    """
    for weight in parameters:
        if weight.grad is not None:
            most = part * weight.norm().clamp(min=_LEAST_NORM)
            weight.grad.mul_((most / weight.grad.norm().clamp(min=1e-12)).clamp(max=1.0))
