"""Ranges without data, from what batch norms know of the values behind them.

Behind a norm, channel c is taken as normal with mean β_c and deviation |γ_c| (Nagel et al. 2019;
the same statistics serve the data-free methods of RED and SPIQ). Means and deviations go on
through layers without a norm, additions and rectifiers, as if channels were independent; any
other operator is taken to keep those of its first input.

| symbol | meaning |
|---|---|
| μ, σ | mean and deviation of a channel |
| k | how many deviations a range covers |
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm  # private: BatchNorm1d to 3d, SyncBatchNorm
from torch.nn.modules.conv import _ConvNd

from search.graph.exported.nodes import operator_name
from search.graph.pruned.pruned_graph import PrunedGraph
from search.quantization.places import Places, places
from search.quantization.ranges import Range
from search.quantization.torch_graph import TorchGraph

DEVIATIONS = 6.0  # k: Nagel et al. take six
IMAGES = (-2.2, 2.7)  # pixels of [0, 1], normalised by the means and deviations of ImageNet


@dataclass(frozen=True)
class _Moments:
    """μ and σ of each channel, (channels,), and the bounds that nothing exceeds."""

    mean: Tensor
    deviation: Tensor
    low: float = -math.inf
    high: float = math.inf

    def range(self, spread: float) -> Range:
        low = float((self.mean - spread * self.deviation).min())
        high = float((self.mean + spread * self.deviation).max())
        return min(max(low, self.low), self.high), max(min(high, self.high), self.low)

    def rectified(self, most: float) -> _Moments:
        """Behind a rectifier; cut at `most` too, which μ and σ disregard."""
        normal = torch.distributions.Normal(0.0, 1.0)
        safe = self.deviation.clamp_min(1e-12)
        at = self.mean / safe
        density, below = normal.log_prob(at).exp(), normal.cdf(at)
        mean = self.mean * below + safe * density
        square = (self.mean**2 + safe**2) * below + self.mean * safe * density
        deviation = (square - mean**2).clamp_min(0).sqrt()
        return _Moments(mean, deviation, 0.0, most)


def ranges_from_norms(
    pruned: PrunedGraph,
    int8_layers: Collection[str],
    *,
    inputs: Range | None = IMAGES,
    spread: float = DEVIATIONS,
) -> dict[str, Range]:
    """The range of every value that is rounded, as `QuantizedModel.fix` takes them.

    Args:
        pruned: the float model.
        int8_layers: as the model of the plan has them.
        inputs: least and greatest value of the network's inputs; None leaves out every value on
            which no batch norm stands, or a sum, concatenation or rectifier of such ones.
        spread: k.
    """
    graph = TorchGraph(pruned)
    return told_ranges(graph, places(graph.ops, graph.outputs, int8_layers), inputs, spread)


def told_ranges(
    graph: TorchGraph, where: Places, inputs: Range | None, spread: float = DEVIATIONS
) -> dict[str, Range]:
    """The same for a graph that has been read."""
    known: dict[str, _Moments] = {}
    behind: dict[str, Range] = {}  # a rectifier cuts a range, but leaves its upper end
    nodes = {node.name: node for node in graph.graph.nodes}
    for op in graph.ops:
        before = [known[value] for value in op.inputs if value in known]
        if op.role == "layer":
            made = _behind_layer(graph, nodes[op.output], before, inputs)
        elif op.role == "rectifier" and before:
            made = before[0].rectified(_most(graph.module(nodes[op.output])))
            low, high = before[0].range(spread)
            behind[op.output] = (max(low, 0.0), min(max(high, 0.0), made.high))
        else:
            node = nodes[op.output]
            is_known = inputs is not None or (op.role == "join" and len(before) == len(op.inputs))
            norm = graph.norm(node) or graph.module(node)
            made = _joined(node, before, norm) if is_known else None
        if made is not None:
            known[op.output] = made
    found = {}
    for value, key in (*where.rounded.items(), *where.entering.items()):
        own = behind.get(value) or (known[value].range(spread) if value in known else inputs)
        if own is not None:
            found[key] = own
    return found


def _behind_layer(
    graph: TorchGraph, node: fx.Node, before: list[_Moments], inputs: Range | None
) -> _Moments | None:
    calls = [call for each in graph.layers.values() for call in each if call.node is node]
    norm = graph.norm(calls[0].norm) if calls else None
    if norm is not None:
        return _of_norm(norm)
    layer = graph.module(node)
    if inputs is None or not isinstance(layer, _ConvNd | nn.Linear):
        return None
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    weight = layer.weight.detach()
    weight = weight.reshape(*weight.shape[:2], -1)
    channels = weight.shape[1] * groups
    read = before[0] if before and len(before[0].mean) == channels else _spread(inputs, channels)
    each = len(weight) // groups
    mean = read.mean.reshape(groups, 1, -1).expand(-1, each, -1).reshape(len(weight), -1)
    deviation = read.deviation.reshape(groups, 1, -1).expand(-1, each, -1)
    deviation = deviation.reshape(len(weight), -1)
    out = (weight.sum(2) * mean).sum(1)
    out = out if layer.bias is None else out + layer.bias.detach()
    return _Moments(out, (weight.square().sum(2) * deviation.square()).sum(1).sqrt())


def _spread(inputs: Range, channels: int) -> _Moments:
    """Inputs of the network, as evenly spread."""
    low, high = inputs
    mean = torch.full((channels,), (low + high) / 2)
    return _Moments(mean, torch.full((channels,), (high - low) / math.sqrt(12)), low, high)


def _of_norm(norm: _BatchNorm | nn.LayerNorm) -> _Moments | None:
    if norm.weight is None:
        return None
    gain = norm.weight.detach().flatten()
    bias = torch.zeros_like(gain) if norm.bias is None else norm.bias.detach().flatten()
    return _Moments(bias, gain.abs())


def _joined(node: fx.Node, before: list[_Moments], module: nn.Module | None) -> _Moments | None:
    """Behind an addition, a concatenation, or an operator of which nothing is known."""
    if isinstance(module, _BatchNorm | nn.LayerNorm):
        return _of_norm(module)
    if not before:
        return None
    name, means = operator_name(node), [each.mean for each in before]
    deviations = [each.deviation for each in before]
    if name == "add" and len({len(mean) for mean in means}) == 1:
        return _Moments(torch.stack(means).sum(0), torch.stack(deviations).square().sum(0).sqrt())
    if name == "cat":
        return _Moments(torch.cat(means), torch.cat(deviations))
    return before[0]


def _most(module: nn.Module | None) -> float:
    return float(module.max_val) if isinstance(module, nn.Hardtanh) else math.inf
