"""A user's network, built, filled with its weights and tried once on an example input."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from jobs.spec import ModelSpec
from workers.loaders.architectures import build
from workers.loaders.errors import ArchitectureError
from workers.loaders.weights import load_weights

TRACE_BATCH = 2


def load_model(spec: ModelSpec, weights: Path, *, allow: Collection[str]) -> nn.Module:
    """The trained network in eval mode, on the CPU.

    Raises:
        LoadError: It cannot be built, its weights do not fit, or it does not run.
    """
    model = build(spec.architecture, spec.kwargs, allow=allow)
    load_weights(model, weights)
    _try_once(model, spec)
    return model


def example_inputs(spec: ModelSpec) -> tuple[Tensor, ...]:
    """Seeded noise (2, *input_shape) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand((TRACE_BATCH, *spec.input_shape), generator=generator),)


def _try_once(model: nn.Module, spec: ModelSpec) -> None:
    try:
        with torch.no_grad():
            output = model(*example_inputs(spec))
    except Exception as error:
        raise ArchitectureError(
            f"{spec.architecture} does not run on inputs of shape {list(spec.input_shape)}: "
            f"{error}; correct input_shape (without the batch)"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ArchitectureError(
            f"{spec.architecture} must return class scores (batch, classes), but returned {got}"
        )
