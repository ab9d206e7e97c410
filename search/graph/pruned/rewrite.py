"""Rewrites the sizes that an exported graph holds to those of the units kept.

Sizes are read off the labels: a dimension of a node's output becomes as long as its axis has kept
atoms. A size that the batch takes part in is scaled by the same share. A block that is gone
leaves its shortcut, and its nodes are not copied. An index of units becomes a constant of its own.
Knows no parameters.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from search.errors import PlanError
from search.graph.dependency.labels import FIXED, Atoms, Axis, Block, KeepMask, Labels
from search.graph.dependency.propagation import Propagation
from search.graph.exported.nodes import is_check, operator_name

INNER = "the exported graph holds other graphs (torch.cond, say), which cannot be rewritten"


@dataclass(frozen=True)
class RewrittenGraph:
    """A rewritten graph.

    Attributes:
        graph: placeholders keep their names; those that nothing reads are gone.
        indices: placeholder that is new -> its value, an index of units.
        replaced: placeholders of the constants that these replace.
    """

    graph: fx.Graph
    indices: Mapping[str, Tensor]
    replaced: frozenset[str]


def rewritten(program: fx.Graph, propagation: Propagation, kept: KeepMask) -> RewrittenGraph:
    """The graph that computes the same with only the atoms in `kept`.

    Args:
        program: an exported graph; its placeholders keep their names. Parameters that nothing
            reads (any more) have none.
        propagation: the labels of its values.
        kept: atom -> whether it stays, shape (atoms,).

    Raises:
        PlanError: it holds other graphs, between which values decide.
    """
    if any(node.users for node in program.find_nodes(op="get_attr")):
        raise PlanError(INNER)
    rewriter = _Rewriter(propagation, kept)
    for node in program.nodes:
        rewriter.copy(node)
    replaced = frozenset(rewriter.drop_replaced())
    return RewrittenGraph(rewriter.graph, rewriter.indices, replaced)


class _Rewriter:
    """Copies nodes one by one, with their sizes rewritten."""

    def __init__(self, propagation: Propagation, kept: KeepMask) -> None:
        self.graph = fx.Graph()
        self.indices: dict[str, Tensor] = {}
        self._propagation, self._kept = propagation, kept
        self._counted = np.zeros(propagation.atoms, bool)
        self._counted[propagation.counted] = True
        self._copies: dict[fx.Node, fx.Node] = {}
        self._removed = {block.add: block for block in propagation.blocks if not kept[block.atom]}
        self._dead = frozenset[fx.Node]().union(*(b.inner for b in self._removed.values()))

    def copy(self, node: fx.Node) -> None:
        if node in self._dead:
            return
        if node.op == "placeholder":
            if not self._is_unread(node):
                self._copies[node] = self.graph.placeholder(node.name)
        elif node in self._removed:
            self._copies[node] = self._shortcut(self._removed[node])
        elif node.op == "output":
            self.graph.output(fx.map_arg(node.args[0], self._copies.__getitem__))
        elif node.op == "call_function" and not is_check(node):
            self._copies[node] = self._call(node)

    def drop_replaced(self) -> Iterator[str]:
        """Forget the constants that only an index read, which has others now; their names."""
        for node, place in self._copies.items():
            is_known = any(labels.known is not None for labels in self.labels(node))
            if place.op == "placeholder" and is_known and not place.users:
                self.graph.erase_node(place)
                yield node.name

    def _is_unread(self, node: fx.Node) -> bool:
        """Whether nothing reads a parameter or constant, or only blocks that are gone did."""
        weight = any(labels.weight for labels in self.labels(node))
        return weight and all(user in self._dead or is_check(user) for user in node.users)

    def _shortcut(self, block: Block) -> fx.Node:
        """What takes the place of a sum; a copy of it where an operator writes into the sum."""
        shortcut = self._copies[block.shortcut]
        if not block.written:
            return shortcut
        return self.graph.call_function(torch.ops.aten.clone.default, (shortcut,))

    def _call(self, node: fx.Node) -> fx.Node:
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._copies.__getitem__)
        record = self._propagation.operators.get(operator_name(node))
        rule = None if record is None else record.rewrite
        schema = getattr(node.target, "_schema", None)
        if rule is None or schema is None:
            return self._made(node, node.target, args, kwargs)
        names = [argument.name for argument in schema.arguments]
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        sizes = _NodeSizes(self, node, {name: _old(node, names, name) for name in names})
        changed = rule(sizes, given)
        if isinstance(changed, fx.Node):
            return changed
        if changed is None:
            return self._made(node, node.target, args, kwargs)
        target = changed.pop("target", node.target)
        return self._made(node, target, (), changed)

    def _made(self, node: fx.Node, target: Any, args: Any, kwargs: Any) -> fx.Node:
        return self.graph.create_node("call_function", target, args, kwargs, name=node.name)

    def moved(self, node: fx.Node, axis: Atoms, known: Atoms) -> fx.Node:
        """The index of those units that stay, among those that stay."""
        stays = (axis == FIXED) | self._kept[axis]
        places = np.cumsum(stays) - 1
        place = self.graph.placeholder(f"{node.name}_units")
        chosen = known % len(axis)
        self.indices[place.name] = torch.from_numpy(places[chosen[stays[chosen]]])
        return place

    def scaled(self, size: Any, axis: Axis) -> Any:
        """The size of a dimension after pruning; -1 and sizes without units stay."""
        if axis is None or (isinstance(size, int) and size < 0):
            return size
        stays = self.count(axis)
        if isinstance(size, int) or stays == len(axis):
            return stays if isinstance(size, int) else size
        whole = self.graph.call_function(operator.mul, (size, stays))
        return self.graph.call_function(operator.floordiv, (whole, len(axis)))

    def count(self, axis: Axis, stop: int | None = None) -> int:
        """How many of the first `stop` indices of an axis stay."""
        part = axis[:stop] if axis is not None else ()
        return int(((part == FIXED) | self._kept[part]).sum()) if axis is not None else 0

    def counted(self, x: Labels, dims: Sequence[int]) -> int | None:
        """How many values a statistic over `dims` counts, units that are gone among them; None
        where it counts none of these."""
        axes = [x.axes[dim] for dim in dims]
        if not any(axis is not None and self._counted[axis].any() for axis in axes):
            return None
        stays = self._kept | self._counted
        return prod(
            x.shape[dim] if axis is None else int(((axis == FIXED) | stays[axis]).sum())
            for dim, axis in zip(dims, axes, strict=True)
        )

    def labels(self, node: fx.Node) -> tuple[Labels, ...]:
        return self._propagation.values.get(node, ())


def _old(node: fx.Node, names: Sequence[str], name: str) -> Any:
    """An argument as the original node has it."""
    place = names.index(name)
    return node.args[place] if place < len(node.args) else node.kwargs.get(name)


class _NodeSizes:
    """`Sizes` of one node; see there for the methods."""

    def __init__(self, rewriter: _Rewriter, node: fx.Node, old: Mapping[str, Any]) -> None:
        self._rewriter, self._node, self._old = rewriter, node, old
        self.outputs = rewriter.labels(node)

    def input(self, name: str) -> Labels | None:
        node = self._old[name]
        labels = self._rewriter.labels(node) if isinstance(node, fx.Node) else ()
        return labels[0] if labels else None

    def item(self, name: str, place: int) -> Labels | None:
        node = self._old[name][place]
        return next(iter(self._rewriter.labels(node)), None)

    def moved(self, name: str, dim: int, index: Labels | None) -> fx.Node | None:
        x = self.input(name)
        axis = None if x is None or x.weight else x.axes[dim]
        if axis is None or not self.shrinks(axis) or index is None or index.known is None:
            return None
        return self._rewriter.moved(self._node, axis, index.known)

    def scaled(self, sizes: Sequence[Any], out: Labels, start: int) -> list[Any]:
        """An inferred size (-1) is written down unless the batch takes part in it: whether a
        reshape keeps it depends on strides, and so on the units kept."""
        dims = range(start, start + len(sizes))
        known = [
            out.shape[dim] if size == -1 and dim not in out.batch else size
            for dim, size in zip(dims, sizes, strict=True)
        ]
        pairs = zip(known, dims, strict=True)
        return [self._rewriter.scaled(size, out.axes[dim]) for size, dim in pairs]

    def count(self, axis: Axis, stop: int | None = None) -> int:
        return self._rewriter.count(axis, stop)

    def parts(self, axis: Axis, parts: int) -> int:
        size = 0 if axis is None else len(axis) // parts
        ends = [self.count(axis, size * number) for number in range(parts + 1)]
        return sum(start < end for start, end in itertools.pairwise(ends))

    @property
    def graph(self) -> fx.Graph:
        return self._rewriter.graph

    @property
    def epsilon(self) -> float:
        return float(torch.finfo(self._node.meta["val"].dtype).eps)

    def counted(self, name: str, dims: Sequence[int]) -> int | None:
        labels = self.input(name)
        return None if labels is None else self._rewriter.counted(labels, dims)

    def shrinks(self, axis: Axis) -> bool:
        return axis is not None and self.count(axis) < len(axis)
