"""A float64 copy with random parameters, on which a wrong analysis cannot pass by chance.

At initialisation zero gains, zero-init residuals and layer scales of 1e-6 hide whole branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.errors import GraphError
from search.tensors import copy_with, named_tensors

EXPERTS = "_experts_implementation"


def quiet_copy(
    model: nn.Module, replacements: Mapping[str, Tensor] = MappingProxyType({})
) -> nn.Module:
    """A copy in evaluation mode, without gradients; see `copy_with`.

    Raises:
        GraphError: the model cannot be copied.
    """
    try:
        copied = copy_with(model, replacements).eval()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise GraphError(
            f"the model must take copy.deepcopy, train() and eval(), but got: {error}"
        ) from error
    for module in copied.modules():
        _without_grouped_products(module)
    return copied.requires_grad_(False)


def _without_grouped_products(module: nn.Module) -> None:
    """The usual kernel of transformers' mixtures of experts runs in float32 only, and says nothing
    of experts: another of theirs computes the same by operators that have rules."""
    config = getattr(module, "config", None)
    if getattr(config, EXPERTS, None) == "grouped_mm":
        setattr(config, EXPERTS, "batched_mm")


def double_copy(model: nn.Module) -> nn.Module:
    """A `quiet_copy` in float64, with the tensors that modules keep as plain attributes."""
    wider = {
        name: wide
        for name, tensor in named_tensors(model).items()
        if (wide := _double(tensor.detach())).dtype != tensor.dtype
    }
    copied = quiet_copy(model, wider).double()
    for module in copied.modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and isinstance(value, Tensor | list | tuple | dict):
                vars(module)[name] = pytree.tree_map(_double, value)
    return copied


def _double(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.double() if value.is_floating_point() else value
    return value.to(torch.complex128) if value.is_complex() else value


def redraw(model: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Draw every parameter and running statistic of a `double_copy` anew, in place.

    Weights have a variance of 2 / fan-in, times the square of `scale`: smaller ones keep networks
    without norms from growing beyond all bounds, and a softmax at the end from being decided. They
    are uniform, because that is drawn five times as fast as normal, and most of what a draw costs.
    Gains, variances and layer scales are of order one.
    """
    generators: dict[torch.device, torch.Generator] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() or tensor.is_complex():
            if tensor.device not in generators:
                generators[tensor.device] = torch.Generator(tensor.device).manual_seed(seed)
            _draw(name, tensor, generators[tensor.device], scale)


def stirred(inputs: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
    """The inputs in float64 plus noise: zeros as an example would hide whole branches."""
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
