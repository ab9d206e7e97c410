"""Weights that are standardised before use keep the mean and variance that they have.

A norm over a weight would take its statistics over the units that are left, and so compute other
weights. As constants of the exported graph the dense statistics let units go exactly.

Rare case. Models: networks with weight standardisation; of benchmarks/coverage/models.txt
nf_regnet_b0, dm_nfnet_f0 and one convolution of vit_tiny_r_s16_p8_224.
Without it: groups that such a weight reads are approximate instead of prunable.
Tests: those of standardised weights in dependency_tests/test_products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from search.graph.exported.export import Exported
from search.graph.exported.nodes import dims_of

_aten = torch.ops.aten
_MOMENTS = (_aten.std_mean, _aten.var_mean, _aten.std, _aten.var)


def with_fixed_statistics(exported: Exported, tensors: Mapping[str, Tensor]) -> Exported:
    """The exported model, in which statistics of weights are constants.

    Args:
        exported: the model's graph, which is changed.
        tensors: parameters and buffers by name, of which the constants are computed first.
    """
    recipe = _Recipe(exported)
    for node in list(exported.graph_module.graph.nodes):
        if node.op != "call_function" or not recipe.holds(node.args[:1]):
            continue
        packet = getattr(node.target, "overloadpacket", None)
        if packet is _aten.batch_norm and node.args[3:6] == (None, None, True):
            _standardise(node, recipe)
        elif packet in _MOMENTS:
            _fix_moments(node, recipe)
    if not recipe.outputs:
        return exported
    exported.graph_module.recompile()
    recipe.graph.output(recipe.outputs)
    known = replace(exported, statistics=recipe.graph, averaged=recipe.averaged)
    return replace(known, constants=known.constants_for(tensors))


class _Recipe:
    """The part of a graph that computes statistics from parameters and constants alone."""

    def __init__(self, exported: Exported) -> None:
        self.graph = fx.Graph()
        self.outputs: dict[str, fx.Node] = {}
        self.averaged: dict[fx.Node, tuple[int, ...]] = {}
        self._copies: dict[fx.Node, fx.Node] = {}
        self._known: dict[fx.Node, bool] = {}
        self._weights = exported.sources.keys() | exported.constants.keys()

    def holds(self, arguments: Any) -> bool:
        """Whether all nodes among the arguments depend on weights alone, and there is one."""
        nodes = [node for node in arguments if isinstance(node, fx.Node)]
        return bool(nodes) and all(self._is_weight(node) for node in nodes)

    def _is_weight(self, node: fx.Node) -> bool:
        if node not in self._known:
            if node.op == "call_function":
                self._known[node] = self.holds(node.all_input_nodes)
            else:
                self._known[node] = node.name in self._weights
        return self._known[node]

    def copy(self, node: fx.Node) -> fx.Node:
        """The node with all that it takes."""
        if node not in self._copies:
            for source in node.all_input_nodes:
                self.copy(source)
            self._copies[node] = self.graph.node_copy(node, self._copies.__getitem__)
        return self._copies[node]

    def average(self, weight: fx.Node, dims: Sequence[int]) -> None:
        """Note that a statistic of `weight` runs over `dims`."""
        self.averaged[weight] = (*self.averaged.get(weight, ()), *dims)

    def give(self, user: fx.Node, name: str, shape: Sequence[int], value: fx.Node) -> fx.Node:
        """A new placeholder in the graph of `user`, for a value that the recipe computes."""
        first = next(other for other in user.graph.nodes if other.op != "placeholder")
        with user.graph.inserting_before(first):
            place = user.graph.placeholder(f"{user.name}_{name}")
        place.meta = {"val": user.meta["val"].new_empty(shape)}
        self.outputs[place.name] = value
        return place


def _standardise(node: fx.Node, recipe: _Recipe) -> None:
    """(x − mean) · 1/√(variance + ε) · gain + bias, for every index of the second dimension."""
    x, gain, bias, *_, epsilon, _ = node.args
    sizes = x.meta["val"].shape  # type: ignore[union-attr]
    over = [dim for dim in range(len(sizes)) if dim != 1]
    recipe.average(x, over)  # type: ignore[arg-type]
    vector = [size if dim == 1 else 1 for dim, size in enumerate(sizes)]
    call, value = recipe.graph.call_function, recipe.copy(x)  # type: ignore[arg-type]
    variance = call(_aten.var.correction, (value, over), {"correction": 0, "keepdim": True})
    scale = call(_aten.rsqrt.default, (call(_aten.add.Tensor, (variance, epsilon)),))
    mean = recipe.give(node, "mean", vector, call(_aten.mean.dim, (value, over, True)))
    steps = [
        (_aten.sub.Tensor, mean),
        (_aten.mul.Tensor, recipe.give(node, "scale", vector, scale)),
    ]
    shape = [-1 if dim == 1 else 1 for dim in range(len(sizes))]
    with node.graph.inserting_before(node):
        for operator, given in ((_aten.mul.Tensor, gain), (_aten.add.Tensor, bias)):
            if isinstance(given, fx.Node):
                column = node.graph.call_function(_aten.view.default, (given, shape))
                column.meta = {**node.meta, "val": given.meta["val"].view(shape)}
                steps.append((operator, column))
        made: Any = x
        for operator, other in steps:
            made = node.graph.call_function(operator, (made, other))
            made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    node.graph.erase_node(node)


def _fix_moments(node: fx.Node, recipe: _Recipe) -> None:
    single = isinstance(node.meta["val"], Tensor)
    weight: Any = node.args[0]
    given = node.args[1] if len(node.args) > 1 and not isinstance(node.args[1], bool) else None
    recipe.average(weight, dims_of(given, weight.meta["val"].ndim))  # type: ignore[arg-type]
    users = [node] if single else [user for user in node.users if user.target is getitem]
    for user in users:
        place = recipe.give(user, "moment", user.meta["val"].shape, recipe.copy(user))
        user.replace_all_uses_with(place)
        node.graph.erase_node(user)
    if not single:
        node.graph.erase_node(node)
