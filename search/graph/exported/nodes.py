"""Reads single nodes of an exported graph: operator, owner, dimensions. It knows no labels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx


def operator_name(node: fx.Node) -> str:
    """The ATen operator without namespace, overload and the underscore of in-place ones."""
    packet = getattr(node.target, "overloadpacket", None)
    name = str(getattr(packet or node.target, "__name__", node.target))
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def is_check(node: fx.Node) -> bool:
    """Whether the node computes nothing: an export asserts sizes, and dtypes before a cast."""
    return operator_name(node).startswith(("_assert", "sym_constrain"))


def module_path(node: fx.Node) -> str:
    """The module whose forward called the operator."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    return paths[-1] if paths else ""


def dims_of(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Dimensions as numbers ≥ 0; None and an empty list mean all of them."""
    if value is None or (not isinstance(value, int) and not len(value)):
        return tuple(range(rank))
    given = (value,) if isinstance(value, int) else tuple(value)
    return tuple(dim % rank for dim in given)
