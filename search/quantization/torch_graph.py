"""Reads the graph of a `PrunedGraph` as operators, and writes it anew with values rounded.

| term | meaning |
|---|---|
| layer | a convolution or linear layer, and the batch norms that a file folds into it |
| root | the value that another one is but for dropout, which does nothing in a model's use |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm  # private: BatchNorm1d to 3d, SyncBatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from search.graph.exported.nodes import operator_name
from search.graph.pruned.pruned_graph import PrunedGraph
from search.quantization.places import Op, Places, Role
from search.quantization.rounding import rounded_layer

_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_SAME_OPERATORS = frozenset(("dropout", "clone", "contiguous", "alias", "detach"))
_PRODUCTS = frozenset(("conv1d", "conv2d", "conv3d", "linear"))
# Operators that a file holds as Clip if the least value, their second argument, is such a number;
# else as Max and Min.
_CUTS: dict[str, tuple[type, ...]] = {
    "hardtanh": (float, int), "clamp_min": (float, int), "clamp": (float,)
}  # fmt: skip
_WEIGHT = 1  # place of the weight among the arguments of a product


@dataclass(frozen=True)
class Layer:
    """A layer that can be in int8.

    Attributes:
        node: the call of the convolution or linear layer.
        norm: the call of the batch norm behind it that is folded into it.
        ahead: that of the one before it.
    """

    node: fx.Node
    norm: fx.Node | None
    ahead: fx.Node | None = None

    @property
    def source(self) -> fx.Node:
        """The value that it reads, before a norm."""
        (read,) = (self.ahead or self.node).all_input_nodes
        return read


class TorchGraph:
    """The graph of a pruned model as operators.

    Attributes:
        ops: in its order, by the names of its nodes.
        outputs: what it returns.
        layers: name -> its calls, of those that can be in int8.
    """

    def __init__(self, pruned: PrunedGraph) -> None:
        self.graph = pruned.graph
        self._modules = dict(pruned.named_modules(remove_duplicate=False))
        names = {id(tensor): name for name, tensor in pruned.named_parameters()}
        self._weights = {
            f"{path}.weight".removeprefix("."): names[id(module.weight)]
            for path, module in self._modules.items()
            if id(getattr(module, "weight", None)) in names
        }
        self._names = {name: name for name in names.values()} | self._weights
        self.ops: list[Op] = []
        self.layers: dict[str, list[Layer]] = {}
        self._roots: dict[fx.Node, fx.Node] = {}
        self._ahead: set[fx.Node] = set()
        inputs = self.graph.find_nodes(op="placeholder")[2:]
        self._values: set[fx.Node] = set(inputs)
        for node in self.graph.nodes:
            self._visit(node)
        output = self.graph.output_node()
        self.outputs = {self.root(node).name for node in output.all_input_nodes}

    def root(self, node: fx.Node) -> fx.Node:
        return self._roots.get(node, node)

    def _visit(self, node: fx.Node) -> None:
        inputs = tuple(
            dict.fromkeys(self.root(each) for each in node.all_input_nodes if each in self._values)
        )
        if not inputs or node.op == "output":
            return
        self._values.add(node)
        if self._is_same(node) or self._is_folded(node, inputs[0]):
            self._roots[node] = inputs[0]
            return
        if self._is_folded_behind(node):
            self._roots[node] = inputs[0]
            self._ahead.add(node)
            return
        layer = self._layer_name(node)
        role: Role = "layer" if layer else self._role(node, inputs)
        if layer and self._is_single(node):
            ahead = node.all_input_nodes[0] if node.all_input_nodes[0] in self._ahead else None
            self.layers.setdefault(layer, []).append(Layer(node, self._norm_of(node), ahead))
        rounds = bool(layer) and not self._is_linear(node)
        self.ops.append(Op(node.name, tuple(each.name for each in inputs), role, layer, rounds))

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def norm_path(self, node: fx.Node | None) -> str:
        """The path of the batch norm that a node computes, called as a module or, where it is of
        a class of its own, as an operator on a module's tensors; empty for any other node."""
        if node is None:
            return ""
        path = str(node.target) if node.op == "call_module" else ""
        if operator_name(node) == "batch_norm":
            read = [each for each in node.args[1:5] if isinstance(each, fx.Node)]
            owners = {str(each.target).rpartition(".")[0] for each in read}
            path = owners.pop() if len(owners) == 1 else ""
        return path if isinstance(self._modules.get(path), _BatchNorm) else ""

    def norm(self, node: fx.Node | None) -> _BatchNorm | None:
        """The batch norm that a node computes."""
        module = self._modules.get(self.norm_path(node)) if node is not None else None
        return module if isinstance(module, _BatchNorm) else None

    def _is_single(self, node: fx.Node) -> bool:
        """Whether a module in single precision is called: Q and DQ are written for that."""
        weight = getattr(self.module(node), "weight", None)
        return weight is not None and weight.dtype == torch.float32

    def _is_same(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), _SAME) or operator_name(node) in _SAME_OPERATORS

    def _is_folded(self, node: fx.Node, value: fx.Node) -> bool:
        """Whether the node is the batch norm of the layer that it reads."""
        return any(
            layer.norm is node for layers in self.layers.values() for layer in layers
            if layer.node is value
        )  # fmt: skip

    def _is_folded_behind(self, node: fx.Node) -> bool:
        """Whether the node is a batch norm that a file folds into all layers that read it, as
        `search.skeleton.folding.leading_norms` does."""
        norm = self.norm(node)
        if norm is None or norm.running_mean is None or not node.users:
            return False
        return all(self._takes_norm(user, norm) for user in node.users)

    def _takes_norm(self, node: fx.Node, norm: _BatchNorm) -> bool:
        layer = self.module(node)
        if not self._layer_name(node) or not self._is_single(node) or self._is_called_again(node):
            return False
        if isinstance(layer, nn.Linear):
            is_flat = isinstance(norm, nn.BatchNorm1d)
            return bool(is_flat and layer.in_features == norm.num_features)
        assert isinstance(layer, _ConvNd)
        nothing = ("valid", (0,) * len(layer.kernel_size))
        return layer.padding_mode == "zeros" and bool(layer.padding in nothing)

    def _is_called_again(self, node: fx.Node) -> bool:
        return sum(bool(each.target == node.target) for each in self.graph.nodes) > 1

    def _norm_of(self, node: fx.Node) -> fx.Node | None:
        (reader,) = node.users if len(node.users) == 1 else (None,)
        norm = self.norm(reader)
        has_statistics = norm is not None and norm.running_mean is not None
        return reader if has_statistics else None

    def _layer_name(self, node: fx.Node) -> str:
        """By its weight, a parameter; else empty."""
        module = self.module(node)
        if isinstance(module, _ConvNd | nn.Linear) and not isinstance(module, _ConvTransposeNd):
            weight = f"{node.target}.weight"
        elif operator_name(node) in _PRODUCTS:
            read = node.args[_WEIGHT]
            weight = str(read.target) if isinstance(read, fx.Node) else ""
        else:
            return ""
        return self._names.get(weight, "").removesuffix(".weight")

    def _is_linear(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), nn.Linear) or operator_name(node) == "linear"

    def _role(self, node: fx.Node, inputs: tuple[fx.Node, ...]) -> Role:
        module, name = self.module(node), operator_name(node)
        if isinstance(module, nn.ReLU) or name in ("relu", "relu6"):
            return "rectifier"
        if isinstance(module, nn.Hardtanh) and module.min_val == 0:  # ReLU6 is one
            return "rectifier"
        least = node.args[1] if name in _CUTS and len(node.args) > 1 else None
        if least == 0 and isinstance(least, _CUTS[name]):
            return "rectifier"
        is_sum = name == "add" and len(node.all_input_nodes) == len(node.args) == 2
        if is_sum and not node.kwargs and len(inputs) == 2:
            return "join"
        is_list = name == "cat" and all(each in self._values for each in node.all_input_nodes)
        return "join" if is_list else "other"


def rounded_graph(
    graph: TorchGraph,
    where: Places,
    int8_layers: set[str],
    reach: int,
    rounding: Callable[[str], str],
) -> fx.Graph:
    """A copy of the graph in which values and weights are rounded.

    Args:
        graph: as read.
        where: from its operators.
        int8_layers: those of `graph.layers` that are in int8.
        reach: see `rounded_layer`.
        rounding: key -> path of the module that rounds the value.
    """
    return _Writer(graph, where, int8_layers, reach, rounding).written()


class _Writer:
    def __init__(
        self,
        graph: TorchGraph,
        where: Places,
        int8_layers: set[str],
        reach: int,
        rounding: Callable[[str], str],
    ) -> None:
        self._source, self._where, self._rounding = graph, where, rounding
        self._reach = reach
        chosen = [call for name in int8_layers for call in graph.layers[name]]
        self._layers = {call.node: call for call in chosen}
        self._norms = {call.norm for call in chosen if call.norm is not None}
        self._norms |= {
            call.ahead
            for call in chosen
            if call.ahead is not None and call.ahead.users.keys() <= self._layers.keys()
        }
        self._made = fx.Graph()
        self._copies: dict[fx.Node, fx.Node] = {}
        self._exact: dict[fx.Node, fx.Node] = {}

    def written(self) -> fx.Graph:
        for node in self._source.graph.nodes:
            if node.op == "output":
                self._made.output(fx.map_arg(node.args[0], self._copies.__getitem__))
            else:
                self._copies[node] = self._after(node, self._copied(node))
        return self._made

    def _copied(self, node: fx.Node) -> fx.Node:
        if node in self._norms:
            return self._copies[node.all_input_nodes[0]]
        call = self._layers.get(node)
        if call is not None:
            return self._layer(call)
        is_int8 = node.name in self._where.int8
        return self._made.node_copy(node, lambda each: self._read(each, is_int8))

    def _layer(self, call: Layer) -> fx.Node:
        layer = self._made.get_attr(str(call.node.target))
        norm, ahead = (
            None if each is None else self._made.get_attr(self._source.norm_path(each))
            for each in (call.norm, call.ahead)
        )
        value = self._read(call.source, True)
        return self._made.call_function(rounded_layer, (layer, norm, self._reach, value, ahead))

    def _read(self, node: fx.Node, is_int8: bool) -> fx.Node:
        """What an operator reads: an int8 one reads an entering value rounded."""
        key = self._where.entering.get(self._source.root(node).name) if is_int8 else None
        copied = self._copies[node]
        return copied if key is None else self._made.call_module(self._rounding(key), (copied,))

    def _after(self, node: fx.Node, made: fx.Node) -> fx.Node:
        """The value rounded behind the operator, where all read it so."""
        call = self._layers.get(node)
        if call is not None and call.norm is not None:
            return made  # rounded where the norm stood
        key = self._where.rounded.get(self._source.root(node).name)
        is_root = self._source.root(node) is node or node in self._norms
        if key is None or not is_root:
            return made
        return self._made.call_module(self._rounding(key), (made,))
