"""Static input scales per channel (SPIQ, Yvinec et al. 2022), folded into the layers around.

Activations have one scale per tensor in every runtime. A channel whose values are small wastes
most of it. Where what lies between two layers is positively homogeneous, f(r x) = r f(x), the
layer before can give each channel divided by r and the layer behind read it times r: the network
computes the same, and its channels use the integers alike.

| symbol | meaning |
|---|---|
| x_c, w_c | the largest magnitude of channel c, and of the weights that read it |
| r_c | (x_c / max x)^α / (w_c / max w)^(1−α), at most 1: what channel c is divided by |
| α | 1 scales inputs alone, as SPIQ does; ½ shares the difference with the weights |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm  # private: BatchNorm1d to 3d, SyncBatchNorm
from torch.nn.modules.conv import _ConvNd

from search.graph.exported.nodes import operator_name
from search.graph.pruned.pruned_graph import PrunedGraph
from search.quantization.examples import first_examples
from search.quantization.rounding import by_input
from search.quantization.torch_graph import Layer, TorchGraph
from search.training_flags import in_evaluation

LEAST = 2.0**-6  # of r: a channel that hardly speaks keeps six bits less of its weights
_HOMOGENEOUS = (
    nn.ReLU, nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Identity,
    nn.Dropout,
)  # fmt: skip
_OPERATORS = frozenset(
    ("relu", "relu_", "leaky_relu", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "dropout")
)


@dataclass(frozen=True)
class Link:
    """Two layers with nothing but positively homogeneous operators between them.

    Attributes:
        before: gives each channel divided by r.
        behind: the path of the layer that reads it times r.
    """

    before: Layer
    behind: str


def links(graph: TorchGraph) -> list[Link]:
    """Every pair of layers of a graph between which channels can be scaled."""
    calls = {call.node: call for each in graph.layers.values() for call in each if len(each) == 1}
    found = []
    for call in calls.values():
        node = call.norm or call.node
        while len(node.users) == 1:
            (node,) = node.users
            if node in calls:
                found.append(Link(call, str(node.target)))
            if node in calls or not _is_homogeneous(graph, node):
                break
    return found


def scale_channels(
    pruned: PrunedGraph, batches: Iterable[Tensor], alpha: float = 1.0
) -> dict[str, Tensor]:
    """Scales channels in place, as far as the graph allows it; the network computes the same.

    Args:
        pruned: float; its weights, norms and biases are changed.
        batches: inputs that show how large channels are.
        alpha: α.

    Returns:
        Path of the layer behind -> r, shape (input channels,).

    Raises:
        QuantizationError: there is no example.
    """
    graph, made = TorchGraph(pruned), {}
    modules = dict(pruned.named_modules(remove_duplicate=False))
    pairs = [each for each in links(graph) if _fits(graph, each, modules)]
    largest = _largest_inputs(pruned, [each.behind for each in pairs], batches)
    with torch.no_grad():
        for link in pairs:
            behind = modules[link.behind]
            scale = _scale(largest[link.behind], _largest_weights(behind), alpha)
            path = graph.norm_path(link.before.norm) or str(link.before.node.target)
            _divide(modules[path], scale)
            _multiply(behind, scale)
            made[link.behind] = scale
    return made


def _is_homogeneous(graph: TorchGraph, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.module(node), _HOMOGENEOUS)
    return operator_name(node) in _OPERATORS and len(node.all_input_nodes) == 1


def _fits(graph: TorchGraph, link: Link, modules: dict[str, nn.Module]) -> bool:
    """Whether what the layer before makes are the channels that the layer behind reads, and
    both give way: an affine norm, or none."""
    before = modules[str(link.before.node.target)]
    norm = graph.norm(link.before.norm)
    if norm is not None and norm.weight is None:
        return False
    return _weight(before).shape[0] == _input_channels(modules[link.behind])


def _largest_inputs(
    pruned: PrunedGraph, paths: Iterable[str], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Path of a layer -> the largest magnitude of each of its input channels, (channels,)."""
    seen: dict[str, Tensor] = {}

    def watch(path: str) -> torch.utils.hooks.RemovableHandle:
        module = pruned.get_submodule(path)

        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            value = inputs[0].detach().abs()
            dims = [dim for dim in range(value.ndim) if dim != _channel_dim(module, value)]
            found = value.amax(dims)
            seen[path] = torch.maximum(seen[path], found) if path in seen else found

        return module.register_forward_pre_hook(see)

    handles = [watch(path) for path in paths]
    try:
        with in_evaluation(pruned), torch.no_grad():
            for inputs in first_examples(batches):
                pruned(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _channel_dim(layer: nn.Module, value: Tensor) -> int:
    return value.ndim - 1 if isinstance(layer, nn.Linear) else 1


def _input_channels(layer: nn.Module) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else int(layer.in_channels)  # type: ignore[arg-type]


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer, _ConvNd | nn.Linear)
    return layer.weight


def _largest_weights(layer: nn.Module) -> Tensor:
    """The largest magnitude of the weights that read each input channel, (channels,)."""
    return _by_input(layer).abs().amax((0, 2))


def _by_input(layer: nn.Module) -> Tensor:
    """The weight as (outputs of a group, input channels, positions)."""
    weight = _weight(layer)
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    outputs, inputs = weight.shape[:2]
    flat = weight.reshape(groups, outputs // groups, inputs, -1)
    return flat.transpose(0, 1).reshape(outputs // groups, groups * inputs, -1)


def _scale(inputs: Tensor, weights: Tensor, alpha: float) -> Tensor:
    ratio = _relative(inputs) ** alpha / _relative(weights) ** (1 - alpha)
    return (ratio / ratio.max()).clamp(LEAST, 1.0)


def _relative(values: Tensor) -> Tensor:
    return (values / values.max().clamp_min(2.0**-100)).clamp_min(LEAST)


def _divide(changed: nn.Module, scale: Tensor) -> None:
    """A layer, or the norm behind one, gives its channels divided by `scale`."""
    assert isinstance(changed, _ConvNd | nn.Linear | _BatchNorm)
    changed.weight.div_(scale.reshape(-1, *[1] * (changed.weight.ndim - 1)))
    if changed.bias is not None:
        changed.bias.div_(scale)


def _multiply(layer: nn.Module, scale: Tensor) -> None:
    """The layer reads its input channels times `scale`."""
    assert isinstance(layer, _ConvNd | nn.Linear)
    layer.weight.mul_(by_input(layer, scale))
