"""Parameters, buffers and attributes of a module by name, and copies with other ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from search.attributes import Attributes
from search.errors import PlanError


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def copy_with(model: nn.Module, replacements: Mapping[str, Tensor]) -> nn.Module:
    """A deep copy in which the named parameters and buffers have other values; ties live on."""
    tensors = named_tensors(model)
    memo: dict[int, Any] = {
        id(tensors[name]): type(old)(value, old.requires_grad)
        if isinstance(old := tensors[name], nn.Parameter)
        else value
        for name, value in replacements.items()
    }
    return copy.deepcopy(model, memo)


def set_attributes(model: nn.Module, edits: Mapping[str, Attributes]) -> None:
    modules = dict(model.named_modules())
    for name, attributes in edits.items():
        for attribute, value in attributes.items():
            if not hasattr(modules.get(name), attribute):
                raise PlanError(f"the plan edits {name}.{attribute}, but the model has none")
            setattr(modules[name], attribute, tuple(value) if isinstance(value, list) else value)
