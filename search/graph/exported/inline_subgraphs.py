"""Puts the parts of an exported graph that run without gradients, or without autocast, in line.

torch.export wraps such parts (`torch.no_grad()`, `torch.autocast(enabled=False)` in a forward) as
graphs of their own. It knows operators and nothing of pruning.

Rare case. Models: forwards that switch gradients or autocast off in a part; of
benchmarks/coverage/models.txt gemma4_vit_167m.
Without it: no rule sees the operators of the part, and units that meet its outputs are frozen.
Tests: exported_tests/test_inline_subgraphs.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

_GRAD = "wrap_with_set_grad_enabled"
_AUTOCAST = "wrap_with_autocast"


def in_line(graph_module: fx.GraphModule) -> None:
    """Replace every wrapped part by its operators; what leaves one without gradients is detached.

    A part that runs with autocast stays wrapped, unless all is float64, which it does not cast:
    its operators then have other dtypes than their arguments state.

    Args:
        graph_module: changed in place.
    """
    while wrapped := [node for node in graph_module.graph.nodes if _is_plain(node, graph_module)]:
        for node in wrapped:
            _unwrap(node, graph_module)
        graph_module.graph.lint()
        graph_module.recompile()


def _is_plain(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    name = str(node.target)
    if name != _AUTOCAST:
        return name == _GRAD
    place: Any = node.args[4]
    part: Any = graph_module.get_submodule(str(place.target))
    return node.args[2] is False or all(map(_is_double, part.graph.nodes))


def _is_double(node: fx.Node) -> bool:
    values = pytree.tree_leaves(node.meta.get("val"))
    floats = [each for each in values if isinstance(each, Tensor) and each.is_floating_point()]
    return all(each.dtype == torch.float64 for each in floats)


def _unwrap(node: fx.Node, graph_module: fx.GraphModule) -> None:
    start = 1 if str(node.target) == _GRAD else 4
    place, *given = node.args[start:]
    if not isinstance(place, fx.Node):
        raise TypeError(f"a wrapped part must be an attribute, but got {place!r}")
    part = graph_module.get_submodule(str(place.target))
    with node.graph.inserting_before(node):
        outputs = _copied(part, node, given, graph_module)
        if str(node.target) == _GRAD and not node.args[0]:
            outputs = [_detached(value, node) for value in outputs]
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(outputs[user.args[1]])  # type: ignore[index]
            node.graph.erase_node(user)
    node.graph.erase_node(node)
    if not place.users:
        node.graph.erase_node(place)


def _copied(
    part: Any, node: fx.Node, given: Sequence[Any], graph_module: fx.GraphModule
) -> list[Any]:
    """The operators of a part, a GraphModule, in the graph of `node`; what the part returns."""
    copies = dict(zip(part.graph.find_nodes(op="placeholder"), given, strict=True))
    for inner in part.graph.nodes:
        if inner.op == "get_attr":
            name = f"{node.name}_{inner.target}"
            graph_module.add_submodule(name, part.get_submodule(inner.target))
            copies[inner] = node.graph.get_attr(name)
        elif inner.op == "call_function":
            copies[inner] = node.graph.node_copy(inner, copies.__getitem__)
    (returned,) = part.graph.output_node().args
    outputs = fx.map_arg(returned, copies.__getitem__)
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _detached(value: Any, node: fx.Node) -> Any:
    if not isinstance(value, fx.Node) or not isinstance(value.meta.get("val"), Tensor):
        return value
    detached = node.graph.call_function(torch.ops.aten.detach.default, (value,))
    detached.meta = dict(value.meta)
    return detached
