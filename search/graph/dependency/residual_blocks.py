"""Residual blocks: branches that can be left out, because an addition has a shortcut beside them.

| symbol | meaning |
|---|---|
| a, b | the shortcut and the branch: two values of one shape, which an operator adds |
| part | the nodes all of whose uses lead to the addition through a, or through b |
| x | the one value that feeds both parts, parameters and constants apart |

It reads the exported graph and the labels of its values; it knows neither groups nor plans.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from os.path import commonprefix

import numpy as np
from torch import fx

from search.graph.dependency.costs import node_products
from search.graph.dependency.labels import Block
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import Exported
from search.graph.exported.nodes import is_check, module_path, operator_name


@dataclass(frozen=True)
class _Part:
    """What leads to an addition through one of its values.

    Attributes:
        end: that value.
        nodes: the nodes that only the addition uses; none where `end` has other uses too.
        feeds: the values that they read, views of them resolved.
        weighted: those of them that multiply by a weight, in the order of the graph.
        macs: the multiply-accumulates of these.
    """

    end: fx.Node
    nodes: frozenset[fx.Node]
    feeds: frozenset[fx.Node]
    weighted: tuple[fx.Node, ...]
    macs: int


def with_blocks(exported: Exported, propagation: Propagation) -> Propagation:
    """The propagation with the residual blocks of its graph."""
    blocks = blocks_of(exported, propagation)
    return replace(propagation, blocks=blocks, atoms=propagation.atoms + len(blocks))


def blocks_of(exported: Exported, propagation: Propagation) -> tuple[Block, ...]:
    """The residual blocks, in the order of their additions; they may be nested.

    A block is an addition of two values of equal shape, one of which, the branch, multiplies by
    weights. Both must be fed by one and the same value x alone: the shortcut is x itself, or what
    a projection makes of it. If both multiply by weights, the branch is the one that does more.

    Args:
        exported: the model's graph.
        propagation: the labels of its values; the atoms of the blocks follow those that it has.
    """
    reader = _Reader(exported, propagation)
    nodes = exported.graph_module.graph.nodes
    changed = {each for node in nodes for chain in written(node) for each in chain}
    blocks: list[Block] = []
    for node in nodes:
        parts = reader.parts(node)
        if parts is not None:
            shortcut, branch = parts
            atom = propagation.atoms + len(blocks)
            ends = shortcut.end, branch.end
            blocks.append(
                Block(_name(branch), atom, node, *ends, branch.nodes, written=node in changed)
            )
    return tuple(blocks)


class _Reader:
    """Asks one exported graph what an addition adds."""

    def __init__(self, exported: Exported, propagation: Propagation) -> None:
        self._propagation, self._dynamic = propagation, exported.dynamic
        self._everything = np.ones(propagation.atoms, bool)
        self._order = {node: place for place, node in enumerate(exported.graph_module.graph.nodes)}
        self._fed: set[fx.Node] = set()
        for node in self._order:
            given = node.op == "placeholder" and node.name in exported.inputs
            if given or (propagation.values.get(node) and self._fed & set(node.all_input_nodes)):
                self._fed.add(node)

    def parts(self, node: fx.Node) -> tuple[_Part, _Part] | None:
        """Shortcut and branch, where the node adds the one to the other."""
        if not self._adds(node):
            return None
        first, second = (self._part(node, end) for end in node.args[:2])  # type: ignore[arg-type]
        if len(first.feeds) != 1 or first.feeds != second.feeds:
            return None
        options = [pair for pair in ((first, second), (second, first)) if self._is_branch(pair[1])]
        return max(options, key=lambda pair: pair[1].macs, default=None)

    def _adds(self, node: fx.Node) -> bool:
        """Whether the node adds two different values of one shape and dtype."""
        if node not in self._fed or operator_name(node) != "add":
            return False
        ends = [end for end in node.args[:2] if isinstance(end, fx.Node) and end in self._fed]
        shapes = {self._described(end) for end in (node, *ends)}
        plain = node.kwargs.get("alpha", 1) in (1, 1.0)
        return plain and len(set(ends)) == 2 and len(shapes) == 1

    def _described(self, node: fx.Node) -> tuple[object, ...]:
        labels, value = self._propagation.values[node][0], node.meta.get("val")
        return labels.shape, labels.batch, getattr(value, "dtype", None)

    def _part(self, add: fx.Node, end: fx.Node) -> _Part:
        nodes: set[fx.Node] = set()
        waiting = [end]
        while waiting:
            node = waiting.pop()
            users = {user for user in node.users if not is_check(user)}
            inside = users <= nodes or (node is end and users == {add})
            if node.op == "call_function" and node not in nodes and inside:
                nodes.add(node)
                waiting += node.all_input_nodes
        weighted = sorted(filter(self._multiplies, nodes), key=self._order.__getitem__)
        return _Part(
            end,
            frozenset(nodes),
            frozenset(self._feeds(nodes) if nodes else [_source(end)]),
            tuple(weighted),
            sum(self._macs(node) for node in weighted),
        )

    def _feeds(self, nodes: set[fx.Node]) -> Iterator[fx.Node]:
        for node in nodes:
            for source in node.all_input_nodes:
                if source not in nodes and source in self._fed:
                    yield _source(source)

    def _multiplies(self, node: fx.Node) -> bool:
        labels = (self._propagation.values.get(source, ()) for source in node.all_input_nodes)
        return self._macs(node) > 0 and any(each.weight for own in labels for each in own)

    def _macs(self, node: fx.Node) -> int:
        products = node_products(node, self._propagation, dynamic=self._dynamic)
        return sum(product.at(self._everything) for product in products)

    def _is_branch(self, part: _Part) -> bool:
        """Whether weights take part, and nothing is written to what is read elsewhere."""
        return bool(part.weighted) and all(
            chain[-1] in part.nodes for node in part.nodes for chain in written(node)
        )


def written(node: fx.Node) -> Iterator[tuple[fx.Node, ...]]:
    """For each value that the node writes to: that value, what it is a view of, and so on."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    for place, argument in enumerate(schema.arguments):
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            values = value if isinstance(value, list | tuple) else [value]
            yield from (tuple(_chain(each)) for each in values if isinstance(each, fx.Node))


def _source(node: fx.Node) -> fx.Node:
    """What a value is a view of, if it holds all of its elements."""
    while _is_view(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _is_view(node: fx.Node) -> bool:
    record = OPERATORS.get(operator_name(node))
    return record is not None and record.is_view


def _chain(node: fx.Node) -> Iterator[fx.Node]:
    """The node, and those whose memory it may share."""
    yield node
    schema = getattr(node.target, "_schema", None)
    shares = _is_view(node) or operator_name(node) == "getitem"
    shares |= getattr(node.target, "is_view", False)
    shares |= schema is not None and schema.is_mutable
    if shares and node.args and isinstance(node.args[0], fx.Node):
        yield from _chain(node.args[0])


def _name(branch: _Part) -> str:
    """The innermost module that holds all layers of the branch, else its last layer."""
    paths = [module_path(node) for node in branch.weighted]
    shared = commonprefix([path.split(".") for path in paths])
    return ".".join(shared) or paths[-1] or "block"
