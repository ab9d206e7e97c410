"""The segments of a network: which of its layers switch their precision together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import TYPE_CHECKING

from search.constraints import Constraints, left_alone
from search.explorer.segments import Segment
from search.quantization.model import graph_form, quantizable_layers
from search.quantization.places import Op, segments

if TYPE_CHECKING:
    from search.graph import PruningGraph
    from search.graph.dependency.groups import Group

PREFIX = "precision of "


def precision_segments(
    graph: PruningGraph, ops: Sequence[Op], constraints: Constraints
) -> tuple[Segment, ...]:
    """Residual blocks, and the layers between them, as far as they can be in int8.

    Args:
        graph: the analysis of the model.
        ops: of its ONNX graph, see `SkeletonFactory.operators`.
        constraints: layers that are left alone stay float.

    Raises:
        GraphError: the model cannot be exported in its own dtype.
    """
    layers = set(quantizable_layers(graph_form(graph.model, graph, graph.dense_plan())))
    free = layers - left_alone(layers, constraints)
    runs = (tuple(name for name in run if name in free) for run in segments(ops))
    weights = {group.name: _weights(graph, group) for group in graph.groups}
    return tuple(
        Segment(PREFIX + run[0], run, {name: _share(own, run) for name, own in weights.items()})
        for run in runs
        if run
    )


def _weights(graph: PruningGraph, group: Group) -> dict[str, int]:
    """Layer -> how many of its weights the units of a group make or read."""
    held: dict[str, int] = {}
    for member in group.members:
        shape = graph.shapes[member.tensor]
        if len(shape) > 1 and member.tensor.endswith("weight"):
            layer = member.tensor.removesuffix(".weight")
            indices = sum(len(unit) for unit in member.indices)
            held[layer] = held.get(layer, 0) + indices * prod(shape) // shape[member.dim]
    return held


def _share(weights: dict[str, int], layers: Collection[str]) -> float:
    whole = sum(weights.values())
    return sum(weights.get(name, 0) for name in layers) / whole if whole else 0.0
