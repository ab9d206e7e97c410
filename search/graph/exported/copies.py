"""Copies of a model for the analysis: in evaluation mode without gradients, and in float64.

It knows modules and tensors, neither graphs nor pruning.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """Another kernel for transformers' mixtures of experts, of operators that have rules.

    Rare case. Models: mixtures of experts of transformers, such as MixtralModel, whose config
    names the kernel `grouped_mm`. It runs in float32 only, and does not name the experts.
    Without it: the experts form no group, so that nothing of them can be pruned.
    Tests: test_hidden_units_of_experts_leave_all_of_them_together in test_unusual_models.
    """
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
