"""Rewrites the sizes that an exported graph holds to those of the units kept.

Sizes are read off the labels: a dimension of a node's output becomes as long as its axis has kept
atoms. A size that the batch takes part in is scaled by the same share. A block that is gone
leaves its shortcut, and its nodes are not copied. An index of units becomes a constant of its own.
Knows no parameters.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from search.errors import PlanError
from search.graph.dependency.labels import FIXED, Atoms, Axis, Block, KeepMask, Labels
from search.graph.dependency.operators.masked_norms import RECOUNTED
from search.graph.dependency.propagation import Propagation
from search.graph.exported.nodes import dims_of, is_check, operator_name

Arguments = dict[str, Any]

_EPSILON = 1e-5  # of a layer norm that is told none
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
        rule = _RULES.get(operator_name(node))
        schema = getattr(node.target, "_schema", None)
        if rule is None or schema is None:
            return self._made(node, node.target, args, kwargs)
        names = [argument.name for argument in schema.arguments]
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        sizes = _Sizes(self, node, {name: _old(node, names, name) for name in names})
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


class _Sizes:
    """What the rule of one operator is told: old labels, and ways to new sizes."""

    def __init__(self, rewriter: _Rewriter, node: fx.Node, old: Mapping[str, Any]) -> None:
        self._rewriter, self._node, self._old = rewriter, node, old
        self.outputs = rewriter.labels(node)

    def input(self, name: str) -> Labels | None:
        """The labels of a tensor argument."""
        node = self._old[name]
        found = self._rewriter.labels(node) if isinstance(node, fx.Node) else ()
        return found[0] if found else None

    def item(self, name: str, place: int) -> Labels | None:
        """The labels of a tensor in a list."""
        node = self._old[name][place]
        return next(iter(self._rewriter.labels(node)), None)

    def moved(self, name: str, dim: int, index: Labels | None) -> fx.Node | None:
        """A new index of the units along a dimension; None where the old one will do."""
        x = self.input(name)
        axis = None if x is None or x.weight else x.axes[dim]
        if axis is None or not self.shrinks(axis) or index is None or index.known is None:
            return None
        return self._rewriter.moved(self._node, axis, index.known)

    def scaled(self, sizes: Sequence[Any], out: Labels, start: int) -> list[Any]:
        """The sizes of the dimensions of `out` from `start` on.

        An inferred size (-1) is written down unless the batch takes part in it: whether a reshape
        keeps it depends on strides, and so on the units kept.
        """
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
        """How many of the equal parts of an axis keep something."""
        size = 0 if axis is None else len(axis) // parts
        ends = [self.count(axis, size * number) for number in range(parts + 1)]
        return sum(start < end for start, end in itertools.pairwise(ends))

    @property
    def epsilon(self) -> float:
        """What a norm adds that is told no number."""
        return float(torch.finfo(self._node.meta["val"].dtype).eps)

    def recounted(self, name: str, x: str, dims: Sequence[int], given: Arguments) -> Any:
        """A statistic that counts units that are gone; None where it counts none of these."""
        labels = self.input(x)
        count = None if labels is None else self._rewriter.counted(labels, dims)
        if labels is None or count is None:
            return None
        return RECOUNTED[name](self._rewriter.graph, given, dims, count)

    def shrinks(self, axis: Axis) -> bool:
        return axis is not None and self.count(axis) < len(axis)


RewriteRule = Callable[[_Sizes, Arguments], Arguments | fx.Node | None]


def _by_output(name: str) -> RewriteRule:
    """A list of sizes that stands for the last dimensions of the output."""

    def rule(sizes: _Sizes, given: Arguments) -> Arguments | None:
        (out,) = sizes.outputs
        listed = list(given[name])
        return given | {name: sizes.scaled(listed, out, len(out.shape) - len(listed))}

    return rule


def _unflatten(sizes: _Sizes, given: Arguments) -> Arguments | None:
    (out,), listed = sizes.outputs, list(given["sizes"])
    start = given["dim"] % (len(out.shape) - len(listed) + 1)
    return given | {"sizes": sizes.scaled(listed, out, start)}


def _split(sizes: _Sizes, given: Arguments, dim: int = 0) -> Arguments | None:
    """Parts of the sizes that are left; also of a chunk, which would cut in other places."""
    dim = given.get("dim", dim)
    axes = [out.axis(dim) for out in sizes.outputs]
    if all(axis is None for axis in axes):
        return None
    parts = [
        out.shape[dim] if axis is None else sizes.count(axis)
        for out, axis in zip(sizes.outputs, axes, strict=True)
    ]
    target = torch.ops.aten.split_with_sizes.default
    return {"target": target, "self": given["self"], "split_sizes": parts, "dim": dim}


def _slice(sizes: _Sizes, given: Arguments) -> Arguments | None:
    """Start and end move by what was removed before them; an end that is open stays so.

    It must: a dimension that the batch takes part in may be of any length.
    """
    dim, x = given.get("dim", 0), sizes.input("self")
    axis = None if x is None else x.axis(dim)
    if axis is None or not sizes.shrinks(axis):
        return None
    start, end, _ = slice(given.get("start"), given.get("end")).indices(len(axis))
    ends = {"start": sizes.count(axis, start)}
    if end < len(axis):
        ends["end"] = sizes.count(axis, end)
    return given | {"dim": dim} | ends


def _pad(sizes: _Sizes, given: Arguments) -> Arguments | None:
    """Borders around units follow what they are concatenated with."""
    (out,), x, widths = sizes.outputs, sizes.input("self"), list(given["pad"])
    if x is None or not any(map(sizes.shrinks, out.axes[-(len(widths) // 2) :])):
        return None
    for step in range(len(widths) // 2):
        axis, before = out.axes[-1 - step], widths[2 * step]
        if axis is not None:
            inner = sizes.count(axis, before + x.shape[-1 - step])
            widths[2 * step] = sizes.count(axis, before)
            widths[2 * step + 1] = sizes.count(axis) - inner
    return given | {"pad": widths}


def _narrow(sizes: _Sizes, given: Arguments) -> Arguments | None:
    x, start, length = sizes.input("self"), given["start"], given["length"]
    axis = None if x is None else x.axis(given["dim"])
    if axis is None or not sizes.shrinks(axis):
        return None
    first = sizes.count(axis, start)
    return given | {"start": first, "length": sizes.count(axis, start + length) - first}


def _index_select(sizes: _Sizes, given: Arguments) -> Arguments | None:
    """An index of constants picks the units that stay."""
    dim = given["dim"] % len(sizes.outputs[0].shape)
    moved = sizes.moved("self", dim, sizes.input("index"))
    return None if moved is None else given | {"index": moved}


def _index(sizes: _Sizes, given: Arguments) -> Arguments | None:
    """The same, of one dimension among several."""
    listed = list(given["indices"])
    places = [dim for dim, item in enumerate(listed) if item is not None]
    moved = sizes.moved("self", places[0], sizes.item("indices", places[0]))
    if len(places) > 1 or moved is None:
        return None
    return given | {"indices": [*listed[: places[0]], moved, *listed[places[0] + 1 :]]}


def _convolution(sizes: _Sizes, given: Arguments) -> Arguments | None:
    """Conv groups that have lost all their rows are gone."""
    weight, groups = sizes.input("weight"), given.get("groups", 1)
    axis = None if weight is None else weight.axis(0)
    if groups == 1 or axis is None or not sizes.shrinks(axis):
        return None
    return given | {"groups": sizes.parts(axis, groups)}


def _group_norm(sizes: _Sizes, given: Arguments) -> Arguments | None:
    """Norm groups that have lost all channels are gone."""
    x, groups = sizes.input("input"), given["num_groups"]
    axis = None if x is None else x.axis(1)
    if axis is None or not sizes.shrinks(axis):
        return None
    return given | {"num_groups": sizes.parts(axis, groups)}


def _norm(name: str, sizes: _Sizes, given: Arguments) -> Arguments | fx.Node | None:
    dims = range(-len(given["normalized_shape"]), 0)
    epsilon = given.get("eps", _EPSILON if name == "layer_norm" else None)
    told = {**given, "eps": sizes.epsilon if epsilon is None else epsilon}
    made: fx.Node | None = sizes.recounted(name, "input", dims, told)
    return _by_output("normalized_shape")(sizes, given) if made is None else made


def _mean(sizes: _Sizes, given: Arguments) -> Arguments | fx.Node | None:
    x = sizes.input("self")
    dims = dims_of(given.get("dim"), len(x.shape) if x else 0)
    made: fx.Node | None = sizes.recounted("mean", "self", dims, given)
    return made


def _attention(sizes: _Sizes, given: Arguments) -> Arguments | None:
    """The dense scale stays: it divides by the width that the heads once had.

    It is written down whenever the heads may shrink, so that all plans give the same operators.
    """
    query = sizes.input("query")
    if query is None or given.get("scale") is not None or query.axis(-1) is None:
        return None
    return given | {"scale": query.shape[-1] ** -0.5}


def _rules() -> Iterator[tuple[str, RewriteRule]]:
    for name in ("_unsafe_view", "empty", "expand", "full", "new_empty", "new_full", "new_ones",
                 "new_zeros", "ones", "rand", "randn", "view", "zeros"):  # fmt: skip
        yield name, _by_output("size")
    for name in ("constant_pad_nd", "pad"):
        yield name, _pad
    for name in ("layer_norm", "rms_norm"):
        yield name, partial(_norm, name)
    yield "mean", _mean
    for name in ("chunk", "split", "split_with_sizes", "tensor_split"):
        yield name, _split
    for name, dim in (("vsplit", 0), ("hsplit", 1), ("dsplit", 2)):
        yield name, partial(_split, dim=dim)
    for rank in (1, 2, 3):
        yield f"conv{rank}d", _convolution
        yield f"conv_transpose{rank}d", _convolution
    yield "convolution", _convolution
    yield "group_norm", _group_norm
    for name in ("_unsafe_index", "index"):
        yield name, _index
    yield "index_select", _index_select
    yield "narrow", _narrow
    yield "reshape", _by_output("shape")
    yield "scaled_dot_product_attention", _attention
    yield "slice", _slice
    yield "unflatten", _unflatten


_RULES: Mapping[str, RewriteRule] = dict(_rules())
