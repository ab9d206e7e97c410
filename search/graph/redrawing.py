"""A float64 copy with random parameters, on which a wrong analysis cannot pass by chance.

At initialisation zero gains, zero-init residuals and layer scales of 1e-6 hide whole branches.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search.errors import GraphError


def double_copy(model: nn.Module) -> nn.Module:
    """A copy in float64 and in evaluation mode, without gradients.

    Raises:
        GraphError: the model cannot be copied.
    """
    try:
        doubled = copy.deepcopy(model).double().eval()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise GraphError(
            f"the model must be copyable by copy.deepcopy, but got: {error}"
        ) from error
    return doubled.requires_grad_(False)


def redraw(model: nn.Module, seed: int) -> None:
    """Draw every parameter and running statistic of a `double_copy` anew, in place.

    Weights have a variance of 2 / fan-in; gains, variances and layer scales are of order one.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.copy_(_parameter(name, parameter, generator))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(_normal(buffer, 0.3, generator))
        elif name.endswith("running_var"):
            buffer.copy_(_around_one(buffer, generator))


def stirred(inputs: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
    """The inputs in float64 plus noise: zeros as an example would hide whole branches."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        value.double() + _normal(value, 1.0, generator).to(value.device)
        if value.is_floating_point()
        else value
        for value in inputs
    )


def _parameter(name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    size = parameter.numel()
    if parameter.ndim > 1 and parameter.shape[0] > 1 and size > max(parameter.shape):
        return _normal(parameter, (2 * parameter.shape[0] / size) ** 0.5, generator)
    if name.endswith("bias") or size > max(parameter.shape, default=1):
        return _normal(parameter, 0.3, generator)
    return _around_one(parameter, generator)


def _normal(like: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64) * scale


def _around_one(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5
