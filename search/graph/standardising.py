"""Weights that are standardised before use keep the mean and variance that they have.

A norm over a weight would take its statistics over the units that are left, and so compute other
weights. As constants of the exported graph the dense statistics let units go exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from search.graph.exporting import Exported

_aten = torch.ops.aten
_MOMENTS = (_aten.std_mean, _aten.var_mean, _aten.std, _aten.var)


def with_fixed_statistics(exported: Exported, tensors: Mapping[str, Tensor]) -> Exported:
    """The exported model, in which statistics of weights are constants.

    Args:
        exported: the model's graph, which is changed.
        tensors: parameters and buffers by name.
    """
    weights = _Weights(exported, tensors)
    constants = dict(exported.constants)
    for node in list(exported.graph_module.graph.nodes):
        if node.op != "call_function" or not weights.hold(node.args[:1]):
            continue
        packet = getattr(node.target, "overloadpacket", None)
        if packet is _aten.batch_norm and node.args[3:6] == (None, None, True):
            constants |= _standardised(node, weights)
        elif packet in _MOMENTS:
            constants |= _moments(node, weights)
    exported.graph_module.recompile()
    return replace(exported, constants=constants)


class _Weights:
    """Computes nodes that depend on parameters and constants alone."""

    def __init__(self, exported: Exported, tensors: Mapping[str, Tensor]) -> None:
        self._known: dict[fx.Node, bool] = {}
        self._tensors = {name: tensors[source] for name, source in exported.sources.items()}
        self._tensors |= exported.constants

    def hold(self, arguments: Any) -> bool:
        """Whether all nodes among the arguments depend on weights alone, and there is one."""
        nodes = [node for node in arguments if isinstance(node, fx.Node)]
        return bool(nodes) and all(self._is_weight(node) for node in nodes)

    def _is_weight(self, node: fx.Node) -> bool:
        if node not in self._known:
            if node.op == "call_function":
                self._known[node] = self.hold(node.all_input_nodes)
            else:
                self._known[node] = node.name in self._tensors
        return self._known[node]

    def value(self, node: Any) -> Any:
        """What the node computes."""
        if node.op == "placeholder":
            return self._tensors[node.name].detach()
        arguments = fx.map_arg((node.args, node.kwargs), self.value)
        with torch.no_grad():
            return node.target(*arguments[0], **arguments[1])


def _standardised(node: fx.Node, weights: _Weights) -> dict[str, Tensor]:
    """(x − mean) · 1/√(variance + ε) · gain + bias, for every index of the second dimension."""
    x, gain, bias, *_, epsilon, _ = node.args
    value = weights.value(x)
    over = [dim for dim in range(value.ndim) if dim != 1]
    mean = value.mean(over, keepdim=True)
    scale = (value.var(over, keepdim=True, correction=0) + epsilon).rsqrt()
    places = _placed(node, mean=mean, scale=scale)
    steps = [(_aten.sub.Tensor, places[0]), (_aten.mul.Tensor, places[1])]
    shape = [-1 if dim == 1 else 1 for dim in range(value.ndim)]
    with node.graph.inserting_before(node):
        for operator, vector in ((_aten.mul.Tensor, gain), (_aten.add.Tensor, bias)):
            if isinstance(vector, fx.Node):
                column = node.graph.call_function(_aten.view.default, (vector, shape))
                column.meta = {**node.meta, "val": vector.meta["val"].view(shape)}
                steps.append((operator, column))
        made: Any = x
        for operator, other in steps:
            made = node.graph.call_function(operator, (made, other))
            made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    node.graph.erase_node(node)
    return {places[0].name: mean, places[1].name: scale}


def _moments(node: fx.Node, weights: _Weights) -> dict[str, Tensor]:
    value = weights.value(node)
    single = isinstance(value, Tensor)
    users = [node] if single else [user for user in node.users if user.target is getitem]
    constants = {}
    for user in users:
        part = value if single else value[user.args[1]]
        (place,) = _placed(user, moment=part)
        user.replace_all_uses_with(place)
        node.graph.erase_node(user)
        constants[place.name] = part
    if not single:
        node.graph.erase_node(node)
    return constants


def _placed(node: fx.Node, **values: Tensor) -> list[fx.Node]:
    """Placeholders for constants, named after a node."""
    first = next(other for other in node.graph.nodes if other.op != "placeholder")
    placed = []
    with node.graph.inserting_before(first):
        for name, value in values.items():
            place = node.graph.placeholder(f"{node.name}_{name}")
            place.meta = {"val": node.meta["val"].new_empty(value.shape)}
            placed.append(place)
    return placed
