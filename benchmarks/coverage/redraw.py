"""Float64 copies with parameters drawn anew, of order one, and noise as inputs.

Its own on purpose: it shares nothing with the library's verification.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def redrawn(model: nn.Module, seed: int, scale: float = 1.0) -> nn.Module:
    """A float64 copy in evaluation mode; every parameter and running statistic is random.

    At initialisation zero gains and tiny layer scales hide whole branches: a wrong pruning would
    compute the right output. Matrices are multiplied by `scale`.
    """
    doubled = _doubled(model)
    source = torch.Generator().manual_seed(seed)
    for parameter in doubled.parameters():
        parameter.copy_(_weights(parameter, source, scale))
    for name, buffer in doubled.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(_uniform(buffer, source))
        elif name.endswith("running_mean"):
            buffer.copy_(0.2 * _normal(buffer, source))
    return doubled


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """A float64 copy in evaluation mode; every parameter and statistic times 0.5 to 1.5.

    For models that decide by their outputs (detectors that sort boxes): wholly random weights
    drive their scores to ties, which the last bit breaks.
    """
    doubled = _doubled(model)
    source = torch.Generator().manual_seed(seed)
    for tensor in {id(t): t for t in tensors_of(doubled).values()}.values():
        if tensor.is_floating_point():
            tensor.mul_(_uniform(tensor, source))
    return doubled


def _doubled(model: nn.Module) -> nn.Module:
    """Set to train first: some modules keep what they computed of their weights until they are."""
    return copy.deepcopy(model).double().train().eval().requires_grad_(False)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def last_bit_moved(tensor: Tensor, source: torch.Generator, bit: float) -> Tensor:
    """Every decimal number moved by about its last bit, which is `bit` where it is one."""
    if not tensor.is_floating_point():
        return tensor
    return tensor * (1 + bit * _normal(tensor, source).to(tensor.dtype))


def noise(
    inputs: Sequence[Tensor], seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """The inputs, floating ones in `dtype` with noise added."""
    source = torch.Generator().manual_seed(seed)
    return tuple(
        (value + 0.5 * _normal(value, source)).to(dtype) if value.is_floating_point() else value
        for value in inputs
    )


def _weights(tensor: Tensor, source: torch.Generator, scale: float) -> Tensor:
    """Matrices keep the variance of what passes, but for their scale; vectors are gains, or
    biases: of order one."""
    if tensor.ndim < 2 or tensor.numel() == max(tensor.shape):
        return _uniform(tensor, source)
    fan_in = tensor.numel() // tensor.shape[0]
    return _normal(tensor, source) * scale * math.sqrt(1.5 / max(fan_in, 1))


def _normal(tensor: Tensor, source: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=source, dtype=torch.float64)


def _uniform(tensor: Tensor, source: torch.Generator) -> Tensor:
    drawn = torch.rand(tensor.shape, generator=source, dtype=torch.float64)
    return drawn + 0.5
