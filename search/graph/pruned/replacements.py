"""Refuses modules that were replaced where the graph does not call them: they would do nothing.

It knows modules, no graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from search.errors import InputError

Kinds: TypeAlias = Mapping[tuple[str, ...], type[nn.Module]]


def kinds_beside(root: nn.Module, called: Collection[str]) -> dict[tuple[str, ...], type]:
    """The classes of the submodules whose forward `root` does not call, by their paths."""
    modules = root.named_modules(remove_duplicate=False)
    return {
        tuple(path.split(".")): type(module)
        for path, module in modules
        if path and path not in called and not any(_is_below(path, other) for other in called)
    }


def _is_below(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")


def check_kinds(root: nn.Module, kinds: Kinds) -> None:
    """Raise InputError where a module is of another class than that of before.

    One whose tensors are parametrized is the same module with other tensors.
    """
    for path, kind in kinds.items():
        module: nn.Module | None = root
        for name in path:
            module = module._modules[name] if module is not None else None
        if type(module) is not kind and not (module is not None and is_parametrized(module)):
            raise InputError(
                f"{'.'.join(path)!r} must be a {kind.__name__}, but got {type(module).__name__}: "
                "the pruned graph does not call this module, it computes with its tensors, so "
                "what replaces it would do nothing; replace its tensors, or modules in `called`"
            )


def first_decimal(root: nn.Module) -> Tensor | None:
    """The first parameter or buffer of decimal numbers; else the first of all, if there is one."""
    first = None
    for tensors in (root.parameters(), root.buffers()):
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor
            first = tensor if first is None else first
    return first
