"""A float64 copy with random parameters, on which a wrong analysis cannot pass by chance.

At initialisation zero gains, zero-init residuals and layer scales of 1e-6 hide whole branches. It
knows tensors by their names and shapes, and no graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def redraw(model: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Draw every parameter and running statistic of a `double_copy` anew, in place.

    Weights have a variance of 2 / fan-in, times the square of `scale`: smaller ones keep networks
    without norms from growing beyond all bounds, and a softmax at the end from being decided. They
    are uniform, because that is drawn five times as fast as normal, and most of what a draw costs.
    Gains, variances and layer scales are of order one.

    Args:
        model: the copy.
        seed: of the draw.
        scale: of the weights, without a unit.
    """
    generators: dict[torch.device, torch.Generator] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() or tensor.is_complex():
            if tensor.device not in generators:
                generators[tensor.device] = torch.Generator(tensor.device).manual_seed(seed)
            _draw(name, tensor, generators[tensor.device], scale)


def stirred(inputs: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
    """The inputs in float64 plus noise: zeros as an example would hide whole branches.

    Args:
        inputs: of a model; those that hold no decimals come back as they are.
        seed: of the noise, which is normal with a deviation of one.
    """
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        value.double() + torch.randn(value.shape, generator=generator).to(value.device)
        if value.is_floating_point()
        else value
        for value in inputs
    )


def _draw(name: str, tensor: Tensor, generator: torch.Generator, scale: float) -> None:
    size, widest = tensor.numel(), max(tensor.shape, default=1)
    if tensor.is_complex():
        torch.view_as_real(tensor).normal_(0, size**-0.25, generator=generator)
    elif name.endswith("running_var"):
        tensor.uniform_(0.5, 1.5, generator=generator)
    elif name.endswith("running_mean"):
        tensor.normal_(0, 0.3, generator=generator)
    elif not isinstance(tensor, nn.Parameter):
        return
    elif tensor.ndim > 1 and tensor.shape[0] > 1 and size > widest:
        most = scale * (6 * tensor.shape[0] / size) ** 0.5
        tensor.uniform_(-most, most, generator=generator)
    elif name.endswith("bias") or size > widest:
        tensor.normal_(0, 0.3, generator=generator)
    else:
        tensor.uniform_(0.5, 1.5, generator=generator)
