"""Parameters, multiply-accumulates and elements as functions of the units kept.

A product counts one operator: a constant times the number of indices kept along its axes. It knows
labels and operators, neither groups nor plans.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from search.graph.dependency.labels import FIXED, Atoms, Block, KeepMask, Labels
from search.graph.dependency.operators.operator import Operands, SizedAxis, sized
from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import BATCH
from search.graph.exported.nodes import operator_name


@dataclass(frozen=True)
class Product:
    """A count: `constant` times the number of indices kept along each of `axes`.

    Attributes:
        constant: the indices that always stay, multiplied.
        axes: the dimensions that have atoms.
        examples: how many examples the count is for; a count is reported for one.
    """

    constant: int
    axes: tuple[Atoms, ...]
    examples: int = 1

    def at(self, kept: KeepMask) -> int:
        """The count with only the atoms in `kept`."""
        lengths = (
            int(kept[axis[axis != FIXED]].sum() + (axis == FIXED).sum()) for axis in self.axes
        )
        return self.constant * math.prod(lengths) // self.examples

    def touched(self, group_of: Atoms) -> dict[int, int]:
        """Group -> how much of the count involves at least one of its units."""
        sizes = [len(axis) for axis in self.axes]
        owners = [group_of[axis[axis != FIXED]] for axis in self.axes]
        whole = math.prod(sizes)
        groups = {group for own in owners for group in np.unique(own).tolist() if group >= 0}
        rest = {
            group: math.prod(
                size - int((own == group).sum()) for size, own in zip(sizes, owners, strict=True)
            )
            for group in groups
        }
        return {
            group: self.constant * (whole - left) // self.examples for group, left in rest.items()
        }


def touched(products: Iterable[Product], group_of: Atoms) -> dict[int, int]:
    """Group -> how much of all counts involves at least one of its units."""
    sums: dict[int, int] = {}
    for product in products:
        for group, count in product.touched(group_of).items():
            sums[group] = sums.get(group, 0) + count
    return sums


def parameter_products(propagation: Propagation, parameters: Iterable[str]) -> tuple[Product, ...]:
    """One product per parameter: its number of elements."""
    users: dict[int, set[fx.Node]] = {}
    for node, (labels, *_) in ((node, own) for node, own in propagation.values.items() if own):
        if node.op == "placeholder":
            users.setdefault(id(labels), set()).update(node.users)
    return tuple(
        _product([*sized(labels), *_whole(_around(propagation.blocks, users.get(id(labels))))])
        for labels in (
            propagation.tensors[name] for name in parameters if name in propagation.tensors
        )
    )


def _around(blocks: Iterable[Block], users: set[fx.Node] | None) -> Iterator[Block]:
    """The blocks that hold every use of a parameter."""
    return (block for block in blocks if users and users <= block.inner)


def mac_products(propagation: Propagation, *, dynamic: bool) -> tuple[Product, ...]:
    """The multiply-accumulates of every operator that multiplies matrices, for one example.

    Args:
        propagation: the labels of the graph.
        dynamic: the batch stayed free, so what holds no batch is computed once for all examples.
    """
    return tuple(
        product
        for node in propagation.values
        for product in node_products(node, propagation, dynamic=dynamic)
    )


def node_products(node: fx.Node, propagation: Propagation, *, dynamic: bool) -> Iterator[Product]:
    """The products of one operator, see `mac_products`; none where it multiplies no matrices."""
    record = propagation.operators.get(operator_name(node)) if node.op == "call_function" else None
    outputs = propagation.values.get(node, ())
    if record is None or record.macs is None or not outputs:
        return
    operands = _operands(node, propagation)
    tensors = [value for value in operands.values() if isinstance(value, Labels)]
    examples = 1 if _shared((*tensors, *outputs), dynamic) else BATCH
    around = _whole(block for block in propagation.blocks if node in block.inner)
    for axes in record.macs(operands, outputs[0]):
        yield _product([*axes, *around], examples)


def products_of(
    node: fx.Node, made: Iterable[Labels], propagation: Propagation, examples: int
) -> tuple[Product, ...]:
    """The elements of values that a node makes, with all that goes where a block does.

    Args:
        node: makes them.
        made: their labels.
        propagation: the labels of the graph.
        examples: how many a value with a batch holds; another one is there once.
    """
    around = _whole(block for block in propagation.blocks if node in block.inner)
    return tuple(
        _product([*sized(labels), *around], examples if labels.batch else 1) for labels in made
    )


def _whole(blocks: Iterable[Block]) -> list[SizedAxis]:
    """Axes of one index each: what is inside of a block goes with it."""
    return [(np.array([block.atom]), 1) for block in blocks]


def _product(axes: Iterable[SizedAxis], examples: int = 1) -> Product:
    known = list(axes)
    constant = math.prod(size for axis, size in known if axis is None)
    return Product(constant, tuple(axis for axis, _ in known if axis is not None), examples)


def _shared(values: Sequence[Labels], dynamic: bool) -> bool:
    """Computed once, from weights or constants alone, however many examples there are."""
    return all(not labels.batch and (dynamic or labels.weight) for labels in values)


def _operands(node: fx.Node, propagation: Propagation) -> Operands:
    def label(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return next(iter(propagation.values.get(value, ())), None)
        return [label(item) for item in value] if isinstance(value, list | tuple) else value

    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return {name: label(value) for name, value in given.items()}
