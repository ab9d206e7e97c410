"""Channels last in memory, where a network runs so: a CPU convolves faster then (1.3 times in a
ResNet-20). A forward that calls `view` on feature maps takes contiguous memory alone.

Nor does a network lie so that has a strided 1 × 1 convolution of fewer than 8 inputs, as the
shortcuts of a narrow ResNet are: its backward corrupts memory and ends the process (torch 2.13.0,
an x86 CPU with AVX2; 3 to 7 inputs, strides 2 and 3; not with 8 or more, stride 1, larger kernels,
groups, or contiguous memory).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.errors import SearchError
from search.training_flags import in_evaluation

_TRIED = 2  # examples
_FEWEST_INPUTS = 8


def lay_out(model: nn.Module, inputs: Tensor) -> torch.memory_format:
    """Puts the weights of a model channels last, unless its forward does not run so.

    Args:
        model: its parameters are changed in place, and no number of them.
        inputs: (B, …); the first ones are tried.

    Returns:
        How its weights lie now, which is how its inputs should.
    """
    if inputs.ndim != 4 or not any(parameter.ndim == 4 for parameter in model.parameters()):
        return torch.contiguous_format
    if any(_corrupts(module) for module in model.modules()):
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return torch.contiguous_format
    layout = torch.channels_last
    model.to(memory_format=layout)  # type: ignore[call-overload]
    try:
        with in_evaluation(model), torch.no_grad():
            model(inputs[:_TRIED].contiguous(memory_format=layout))
    except (RuntimeError, SearchError):
        layout = torch.contiguous_format
        model.to(memory_format=layout)  # type: ignore[call-overload]
    return layout


def _corrupts(module: nn.Module) -> bool:
    """Whether the backward of a layer fails with channels last, see above."""
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.groups == 1
        and module.in_channels < _FEWEST_INPUTS
    )
