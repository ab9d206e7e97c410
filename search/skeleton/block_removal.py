"""Removes residual blocks from an ONNX graph: an addition is replaced by one of its inputs.

The addition that ends a block is recognised by the weights that leave with it. Knows nothing of
torch or of plans.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from onnx import GraphProto, ModelProto

from search.errors import SkeletonError
from search.skeleton.folding import foldable_norms, uses_of
from search.skeleton.weightless import canonical

MatrixSizes = tuple[int, ...]  # numbers of elements of matrices, ascending


@dataclass(frozen=True)
class BlockRemoval:
    """One addition, by its place among the nodes of a graph, and the input that replaces it."""

    node: int
    kept: int


def is_matrix(shape: Iterable[int]) -> bool:
    """Whether a tensor has two dimensions or more that are longer than one."""
    return sum(size > 1 for size in shape) >= 2


def find_removals(proto: ModelProto, wanted: Mapping[str, MatrixSizes]) -> dict[str, BlockRemoval]:
    """The removal of every block.

    Args:
        proto: the dense graph, without weights.
        wanted: block -> the elements of each matrix that goes with it; in the order in which the
            additions come, as far as blocks are alike.

    Raises:
        SkeletonError: a block has no removal, or one too many.
    """
    places: dict[MatrixSizes, list[BlockRemoval]] = {}
    for removal in _additions(proto.graph):
        places.setdefault(_lost_matrices(proto.graph, removal), []).append(removal)
    blocks: dict[MatrixSizes, list[str]] = {}
    for name, sizes in wanted.items():
        blocks.setdefault(sizes, []).append(name)
    removals: dict[str, BlockRemoval] = {}
    for sizes, names in blocks.items():
        alike = places.get(sizes, [])
        if not sizes or len(alike) != len(names):
            raise SkeletonError(f"{names} must end in one addition each, but got {len(alike)}")
        removals |= zip(names, alike, strict=True)
    return removals


def remove_blocks(proto: ModelProto, removals: Collection[BlockRemoval]) -> ModelProto:
    """The canonical graph in which additions are replaced; what nothing reads any more is gone."""
    result = ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    instead = _replacements(graph, removals)
    for node in graph.node:
        node.input[:] = [_resolved(name, instead) for name in node.input]
    for value in graph.output:
        value.name = _resolved(value.name, instead)
    live = _live(graph, {})
    kept = [node for place, node in enumerate(graph.node) if place in live]
    del graph.node[:]
    graph.node.extend(kept)
    _fold_norms(graph)
    used = uses_of(graph)
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    return canonical(result)


def _additions(graph: GraphProto) -> Iterator[BlockRemoval]:
    """Either input of every addition of two values that are no weights."""
    weights = {tensor.name for tensor in graph.initializer}
    for place, node in enumerate(graph.node):
        if node.op_type == "Add" and not weights & set(node.input):
            yield from (BlockRemoval(place, side) for side in (0, 1))


def _lost_matrices(graph: GraphProto, removal: BlockRemoval) -> MatrixSizes:
    live = _live(graph, _replacements(graph, [removal]))
    used = {name for place in live for name in graph.node[place].input}
    lost = (tensor for tensor in graph.initializer if tensor.name not in used)
    return tuple(sorted(prod(tensor.dims) for tensor in lost if is_matrix(tensor.dims)))


def _replacements(graph: GraphProto, removals: Collection[BlockRemoval]) -> dict[str, str]:
    nodes = [graph.node[removal.node] for removal in removals]
    kept = [removal.kept for removal in removals]
    return {n.output[0]: n.input[side] for n, side in zip(nodes, kept, strict=True)}


def _resolved(name: str, instead: Mapping[str, str]) -> str:
    while name in instead:
        name = instead[name]
    return name


def _live(graph: GraphProto, instead: Mapping[str, str]) -> set[int]:
    """The places of the nodes that the outputs depend on."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    live: set[int] = set()
    waiting = [value.name for value in graph.output]
    while waiting:
        place = makers.get(_resolved(waiting.pop(), instead))
        if place is not None and place not in live:
            live.add(place)
            waiting += graph.node[place].input
    return live


def _fold_norms(graph: GraphProto) -> None:
    """As an export does: a batch norm that comes to stand behind a layer becomes its bias."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for layer, norm in foldable_norms(graph, initializers):
        bias = layer.input[2] if len(layer.input) > 2 and layer.input[2] else norm.input[2]
        layer.input[:] = [*layer.input[:2], bias]
