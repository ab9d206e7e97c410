"""Tells what would do nothing: a module that was replaced, or got a hook, but is not called.

It knows modules, no graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from search.errors import ReplacedError

Path: TypeAlias = tuple[str, ...]
Kinds: TypeAlias = Mapping[Path, type[nn.Module]]


def kinds_beside(root: nn.Module, called: Collection[str]) -> dict[Path, type[nn.Module]]:
    """The classes of the submodules whose forward `root` does not call, by their paths."""
    modules = root.named_modules(remove_duplicate=False)
    return {
        tuple(path.split(".")): type(module)
        for path, module in modules
        if path and path not in called
    }


def hooked_of(root: nn.Module, kinds: Kinds) -> frozenset[Path]:
    """Those of the modules that have hooks: what these do is in the graph."""
    return frozenset(path for path in kinds if _has_hooks(_at(root, path)))


def check_modules(root: nn.Module, kinds: Kinds, hooked: Collection[Path]) -> None:
    """Look at the modules that are not called; one with parametrized tensors is the same module.

    Args:
        root: the module that calls others.
        kinds: classes of those that it does not call.
        hooked: those of which hooks are known.

    Raises:
        ReplacedError: a module is of another class than that of before.
    """
    for path, kind in kinds.items():
        module = _at(root, path)
        if module is None:
            continue
        if type(module) is not kind and not is_parametrized(module):
            raise ReplacedError(
                f"{'.'.join(path)!r} must be a {kind.__name__}, but got {type(module).__name__}: "
                "the pruned graph does not call this module, so what replaces it would do "
                "nothing; replace modules in `called`, or give this one other tensors"
            )
        if not torch.compiler.is_compiling() and _has_hooks(module) and path not in hooked:
            warnings.warn(
                f"the pruned graph does not call {'.'.join(path)!r}, so hooks of it do nothing; "
                "those of the modules in `called` do",
                stacklevel=2,
            )


def _at(root: nn.Module, path: Path) -> nn.Module | None:
    module: nn.Module | None = root
    for name in path:
        module = None if module is None else module._modules.get(name)
    return module


def _has_hooks(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def first_decimal(root: nn.Module) -> Tensor | None:
    """The first parameter or buffer of decimal numbers; else the first of all, if there is one."""
    first = None
    for tensors in (root.parameters(), root.buffers()):
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor
            first = tensor if first is None else first
    return first
