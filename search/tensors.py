"""Parameters, buffers and attributes of a module by name, and copies with other ones."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.attributes import Attributes
from search.errors import PlanError
from search.training_flags import training_flags_kept


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def copy_with(model: nn.Module, replacements: Mapping[str, Tensor]) -> nn.Module:
    """A deep copy in which the named parameters and buffers have other values; ties live on.

    A tensor with a history that the module keeps as an attribute (its last attention map, a weight
    that a hook computes anew) is copied without the history. What a module computed of its weights
    for evaluation, and forgets when it is set to train (an attention bias, say), is not copied.
    """
    tensors = named_tensors(model)
    memo: dict[int, Any] = {
        id(tensors[name]): type(old)(value, old.requires_grad)
        if isinstance(old := tensors[name], nn.Parameter)
        else value
        for name, value in replacements.items()
    }
    copied = copy.deepcopy(model, _detached(model) | memo)
    with training_flags_kept(copied):
        copied.train()
    return copied


def shell_of(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares their parameters and buffers.

    What a forward leaves behind in the copy (a cache, an attention map) does not reach `model`.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in named_tensors(model).values()}
    return copy.deepcopy(model, _detached(model) | shared)


def _detached(model: nn.Module) -> dict[int, Any]:
    """The tensors with a history among the attributes, as deepcopy wants them."""
    return {
        id(leaf): leaf.detach().clone()
        for module in model.modules()
        for name, value in vars(module).items()
        for leaf in _tensors_in(name, value)
        if not leaf.is_leaf
    }


def _tensors_in(name: str, value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if name.startswith("_") or not value or not isinstance(value, list | tuple | dict):
        return []
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def set_attributes(model: nn.Module, edits: Mapping[str, Attributes]) -> None:
    modules = dict(model.named_modules())
    for name, attributes in edits.items():
        for attribute, value in attributes.items():
            if not hasattr(modules.get(name), attribute):
                raise PlanError(f"the plan edits {name}.{attribute}, but the model has none")
            setattr(modules[name], attribute, tuple(value) if isinstance(value, list) else value)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """`load_state_dict` of a file that holds tensors alone: in the layout of this very model.

    A module that had another layout once takes a state dict without versions for an old one.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=strict)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as safetensors takes it: of tied tensors the first name only."""
    first = {id(value): name for name, value in reversed(_state(model).items())}
    return {
        name: value.detach().contiguous()
        for name, value in _state(model).items()
        if first[id(value)] == name
    }


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def drop_unread(model: nn.Module, lost: set[int], read: set[int]) -> None:
    """Take tensors that nothing reads any more out of a module, in place.

    With them goes what else their modules hold unread (a counter of batches), and every submodule
    that has lost tensors and has none left.

    Args:
        model: the module.
        lost: ids of the tensors that are not read any more.
        read: ids of those that are.
    """
    if lost:
        _drop(model, lost, read, {})


def _drop(module: nn.Module, lost: set[int], read: set[int], known: dict[nn.Module, bool]) -> bool:
    """Whether the module, or one below it, has lost a tensor."""
    if module in known:
        return known[module]
    tables = (module._parameters, module._buffers)
    held = {id(value) for table in tables for value in table.values() if value is not None}
    known[module] = bool(held & lost)
    gone = held & lost if held & read else held
    for table in tables if known[module] else ():
        for name, value in table.items():
            table[name] = None if id(value) in gone else value  # type: ignore[assignment]
    for name, child in module._modules.items():
        if child is not None and _drop(child, lost, read, known):
            known[module] = True
            if not named_tensors(child):
                module._modules[name] = None
    return known[module]
