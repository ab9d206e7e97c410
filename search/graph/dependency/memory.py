"""What one call of a network must hold at the same time, as a function of the units kept.

| term | meaning |
|---|---|
| value | what an operator makes of inputs; what is made of weights alone is counted with these |
| alive | from the operator that makes a value to the last one that reads it or a view of it |
| moment | one operator, with the values that are alive while it runs |

It counts the values of the exported graph, in its order. Nothing is fused and nothing is computed
in place, while runtimes do both; what an operator needs for itself is not seen. Where a block is
gone, the sum that it ended in counts beside its shortcut. Knows labels and operators, neither
groups nor plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import fx

from search.graph.dependency.costs import Product, products_of
from search.graph.dependency.labels import KeepMask
from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import BATCH
from search.graph.exported.nodes import operator_name


@dataclass(frozen=True)
class Activations:
    """The values of a graph.

    Attributes:
        values: the elements of each; with `examples` above 1 where every example has its own.
        moments: numbers of the values that are alive together; sets that others hold are left out.
    """

    values: tuple[tuple[Product, ...], ...] = ()
    moments: tuple[tuple[int, ...], ...] = ()

    def peak(self, kept: KeepMask, batch_size: int) -> int:
        """The most elements that are alive at once, for so many examples."""
        sizes = [
            sum(each.at(kept) * (batch_size if each.examples > 1 else 1) for each in value)
            for value in self.values
        ]
        return max((sum(sizes[number] for number in alive) for alive in self.moments), default=0)


def activations_of(propagation: Propagation) -> Activations:
    """The values of the graph that was walked, and which are alive together."""
    nodes = list(propagation.values)
    place = {node: number for number, node in enumerate(nodes)}
    held = {
        node: products
        for node in nodes
        if not _shares_memory(node, propagation) and (products := _sizes(node, propagation))
    }
    ends = {node: _last_use(node, place, propagation) for node in held}
    number_of = {node: number for number, node in enumerate(held)}
    alive = [set[int]() for _ in nodes]
    for node, end in ends.items():
        for moment in alive[place[node] : end + 1]:
            moment.add(number_of[node])
    return Activations(tuple(held.values()), tuple(tuple(sorted(a)) for a in _largest(alive)))


def _sizes(node: fx.Node, propagation: Propagation) -> tuple[Product, ...]:
    """The elements of what the node makes; none for weights and what is made of them alone."""
    made = [labels for labels in propagation.values[node] if not labels.weight and labels.shape]
    return products_of(node, made, propagation, BATCH)


def _shares_memory(node: fx.Node, propagation: Propagation) -> bool:
    if node.op != "call_function":
        return False
    record = propagation.operators.get(operator_name(node))
    is_view = record is not None and record.is_view and not record.repeats
    return is_view or operator_name(node) == "getitem"


def _last_use(node: fx.Node, place: Mapping[fx.Node, int], propagation: Propagation) -> int:
    """The place of the last node that reads the value or a view of it; of a result the end."""
    last, waiting, seen = place[node], [node], {node}
    while waiting:
        for user in waiting.pop().users:
            last = len(place) - 1 if user.op == "output" else max(last, place.get(user, 0))
            if user not in seen and user in place and _shares_memory(user, propagation):
                seen.add(user)
                waiting.append(user)
    return last


def _largest(sets: Iterable[set[int]]) -> Iterator[set[int]]:
    """The sets that neither neighbour holds."""
    kept: list[set[int]] = []
    for each in sets:
        while kept and kept[-1] <= each:
            kept.pop()
        if not kept or not each <= kept[-1]:
            kept.append(each)
    yield from (each for each in kept if each)
