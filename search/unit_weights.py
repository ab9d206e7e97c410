"""What a unit computes, told by weights alone: batch norms are folded into the layers before them.

Two units are alike where these weights are, up to a scale: then the one's values are the other's
times that scale, if nothing between them and their readers bends values in another way than a
rectifier does. Knows nothing of plans, scores or data.

| symbol | meaning | shape |
|---|---|---|
| v | the folded weights that create a unit, of all producers, each with its offset | (W_g, F) |
| k | the folded kernel of a depthwise layer behind them, times the length of what comes before,
with its offset | (W_g, F) |
| stages | v, and k of every depthwise layer | |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # private: BatchNorm1d to 3d, SyncBatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from search.graph.dependency.groups import Group, Member
from search.graph.pruning_graph import PruningGraph
from search.tensors import named_tensors
from search.training_flags import in_evaluation

NEAR = 4  # calls of layers between a layer and its norm, at most

# Tensors of a norm that scale as the values of a unit do, and those that do not.
_OFFSETS = ("running_mean", "bias")
_GAINS = ("running_var", "weight")


@dataclass(frozen=True)
class Layer:
    """One call of a layer.

    Attributes:
        weight: name of its weight.
        bias: name of its bias, or "".
        norm: name of the batch norm that takes its outputs, or "".
    """

    weight: str
    bias: str
    norm: str


@dataclass(frozen=True)
class UnitWeights:
    """The folded weights of one group.

    Attributes:
        stages: see the module; the last one has the length of the units.
        offsets: members that shift a unit: they scale as its values do.
        producers: members that create it: they scale so too.
        complete: whether all that creates the units is in `stages`.
    """

    stages: tuple[Tensor, ...]
    producers: tuple[Member, ...]
    offsets: tuple[Member, ...]
    complete: bool

    @property
    def magnitude(self) -> Tensor:
        """(W_g,)."""
        lengths: Tensor = self.stages[-1].norm(dim=1)
        return lengths

    def scales(self) -> Tensor:
        """[unit, other] -> the factor (least squares) that brings the other nearest."""
        last = self.stages[-1]
        scales: Tensor = (
            last @ last.T / last.square().sum(1).clamp_min(torch.finfo(last.dtype).tiny)
        )
        return scales

    def distances(self, *, any_scale: bool = True) -> Tensor:
        """[unit, other] -> what part of the unit's length the other does not express, (W_g, W_g):
        0 of a unit that is a multiple of the other, 1 of one that shares nothing with it.

        Args:
            any_scale: other units may be scaled by any factor > 0; else they are taken as they
                are, and distances may exceed 1.
        """
        return torch.stack([_distances(stage, any_scale) for stage in self.stages]).amax(0)


def _distances(stage: Tensor, any_scale: bool) -> Tensor:
    lengths = stage.norm(dim=1).clamp_min(torch.finfo(stage.dtype).tiny)
    if any_scale:
        directions = stage / lengths[:, None]
        angle = torch.cdist(directions, directions, compute_mode="donot_use_mm_for_euclid_dist")
        cosine = (1 - angle.square() / 2).clamp(0, 1)  # exact where directions are the same
        sine: Tensor = (1 - cosine.square()).sqrt()
        return sine
    apart: Tensor = torch.cdist(stage, stage, compute_mode="donot_use_mm_for_euclid_dist")
    relative: Tensor = apart / lengths[:, None]
    return relative


def unit_weights(model: nn.Module, graph: PruningGraph) -> dict[str, UnitWeights]:
    """The folded weights of every prunable group that has layers with one slice per unit.

    Args:
        model: the traced model; it runs once on the example inputs, to see which norm takes the
            outputs of which layer.
        graph: its analysis.
    """
    layers = layers_of(model, graph)
    tensors = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    norms = dict(model.named_modules(remove_duplicate=False))
    found = {group.name: _of_group(group, layers, tensors, norms) for group in graph.prunable}
    return {name: weights for name, weights in found.items() if weights is not None}


def layers_of(model: nn.Module, graph: PruningGraph) -> dict[str, Layer]:
    """Name of a weight -> the layer that was called with it, if it was called once."""
    watch = _Watch(model)
    with in_evaluation(model), torch.no_grad(), watch:
        model(*graph.example_inputs)
    return {name: layer for name, layer in watch.layers.items() if name not in watch.again}


class _Watch(TorchFunctionMode):
    """Sees the calls of layers, and which batch norm takes their outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        tensors = reversed(named_tensors(model).items())  # of tied ones the first name counts
        self._names = {id(tensor): name for name, tensor in tensors}
        self._last: deque[tuple[Tensor, str]] = deque(maxlen=NEAR)
        self.layers: dict[str, Layer] = {}
        self.again: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = [(leaf.ndim, self._names[id(leaf)]) for leaf in leaves if id(leaf) in self._names]
        name = getattr(getattr(func, "overloadpacket", func), "__name__", "")
        if name == "batch_norm" and known:
            self._normed(args[0] if args else kwargs["input"], known[0][1])
        elif isinstance(result, Tensor) and len(known) < len(leaves):
            self._called(result, known)
        return result

    def _normed(self, value: Tensor, tensor: str) -> None:
        for result, weight in self._last:
            if result is value:
                layer = self.layers[weight]
                self.layers[weight] = Layer(weight, layer.bias, tensor.rpartition(".")[0])

    def _called(self, result: Tensor, known: list[tuple[int, str]]) -> None:
        weights = [name for ndim, name in known if ndim > 1]
        if len(weights) != 1:
            return
        self.again.update(set(weights) & self.layers.keys())
        bias = next((name for ndim, name in known if ndim == 1), "")
        self.layers[weights[0]] = Layer(weights[0], bias, "")
        self._last.append((result, weights[0]))


def _of_group(
    group: Group,
    layers: Mapping[str, Layer],
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
) -> UnitWeights | None:
    members = {member.tensor: member for member in group.members if member.role != "consumer"}
    made = [member for member in members.values() if member.tensor in layers]
    producers = tuple(member for member in made if member.role == "producer")
    if not producers or any(len({*map(len, m.indices)}) > 1 for m in group.members):
        return None

    def folded(member: Member) -> tuple[Tensor, Tensor]:
        layer = layers[member.tensor]
        norm = modules.get(layer.norm) if layer.norm else None
        return _folded(member, members.get(layer.bias), norm, tensors)

    stages = [torch.cat([part for member in producers for part in folded(member)], 1)]
    for member in made:
        if member.role == "follower":
            kernel, offset = folded(member)
            stages.append(torch.cat([kernel * stages[-1].norm(dim=1, keepdim=True), offset], 1))
    own = [layers[member.tensor] for member in made]
    offsets = [layer.bias for layer in own] + _of_norms(own, _OFFSETS)
    understood = {member.tensor for member in made}.union(offsets, _of_norms(own, _GAINS))
    shifts = tuple(members[name] for name in offsets if name in members)
    return UnitWeights(tuple(stages), producers, shifts, members.keys() <= understood)


def _of_norms(layers: Iterable[Layer], names: Iterable[str]) -> list[str]:
    return [f"{layer.norm}.{name}" for layer in layers if layer.norm for name in names]


def _folded(
    member: Member,
    bias: Member | None,
    norm: nn.Module | None,
    tensors: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Weights (W_g, F) and offsets (W_g, n) of units of n channels."""
    rows = _rows(tensors[member.tensor], member)
    offset = rows.new_zeros(rows.shape[:2])
    if bias is not None:
        offset = _rows(tensors[bias.tensor], bias).reshape(offset.shape)
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if isinstance(norm, _BatchNorm) and mean is not None and variance is not None:
        at = torch.tensor(member.indices)
        gain, shift = (each[at] for each in _affine(norm, mean, variance))
        rows, offset = rows * gain[:, :, None], offset * gain + shift
    return rows.flatten(1), offset


def _affine(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and shift per channel of a norm in evaluation mode."""
    gain = (variance.detach().double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.detach().double()
    shift = -mean.detach().double() * gain
    return gain, shift if norm.bias is None else shift + norm.bias.detach().double()


def _rows(tensor: Tensor, member: Member) -> Tensor:
    """(W_g, n, …) of a tensor's slices, n channels a unit."""
    at = torch.tensor(member.indices)
    rows = tensor.double().index_select(member.dim, at.flatten()).movedim(member.dim, 0)
    return rows.reshape(*at.shape, -1)
