"""Parameters and multiply-accumulates as functions of the units kept.

A product counts one operator: a constant times the number of indices kept along its axes. It knows
labels and operators, neither groups nor plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import fx

from search.graph.dependency.labels import FIXED, Atoms, Axis, Block, KeepMask, Labels
from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import BATCH
from search.graph.exported.nodes import operator_name

Sized: TypeAlias = tuple[Axis, int]
Operands: TypeAlias = Mapping[str, Any]  # arguments by their schema names, Labels for tensors


@dataclass(frozen=True)
class Product:
    """A count: `constant` times the number of indices kept along each of `axes`.

    Attributes:
        constant: the indices that always stay, multiplied.
        axes: the dimensions that have atoms.
        examples: how many examples the count is for; a count is told for one.
    """

    constant: int
    axes: tuple[Atoms, ...]
    examples: int = 1

    def at(self, kept: KeepMask) -> int:
        """The count when `kept[atom]` tells which atoms stay."""
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
        _product([*_sized(labels), *_whole(_around(propagation.blocks, users.get(id(labels))))])
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
    counter = _COUNTERS.get(operator_name(node)) if node.op == "call_function" else None
    outputs = propagation.values.get(node, ())
    if counter is None or not outputs:
        return
    operands = _operands(node, propagation)
    tensors = [value for value in operands.values() if isinstance(value, Labels)]
    examples = 1 if _shared((*tensors, *outputs), dynamic) else BATCH
    around = _whole(block for block in propagation.blocks if node in block.inner)
    for axes in counter(operands, outputs[0]):
        yield _product([*axes, *around], examples)


def _whole(blocks: Iterable[Block]) -> list[Sized]:
    """Axes of one index each: what is inside of a block goes with it."""
    return [(np.array([block.atom]), 1) for block in blocks]


def _product(axes: Iterable[Sized], examples: int = 1) -> Product:
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


def _sized(labels: Labels) -> list[Sized]:
    return list(zip(labels.axes, labels.shape, strict=True))


def _convolution(operands: Operands, out: Labels) -> Iterator[Sequence[Sized]]:
    """Every element of a weight is used once per output position."""
    return _per_position(operands["weight"], out)


def _transposed(operands: Operands, _: Labels) -> Iterator[Sequence[Sized]]:
    """Every element of a weight is used once per input position."""
    return _per_position(operands["weight"], operands["input"])


def _general_convolution(operands: Operands, out: Labels) -> Iterator[Sequence[Sized]]:
    return (_transposed if operands.get("transposed") else _convolution)(operands, out)


def _per_position(weight: Labels, positions: Labels) -> Iterator[Sequence[Sized]]:
    rest = _sized(positions)
    del rest[1 - len(weight.shape)]  # the channels; without a batch they come first
    yield [*_sized(weight), *rest]


def _linear(operands: Operands, out: Labels) -> Iterator[Sequence[Sized]]:
    yield [*_sized(out), _sized(operands["weight"])[-1]]


def _product_of(
    first: str, summed: tuple[int, ...] = ()
) -> Callable[[Operands, Labels], Iterator[Sequence[Sized]]]:
    """A product of matrices: every output takes the last dimension of the operand `first`.

    Args:
        first: the name of the left operand.
        summed: further dimensions of it that the operator sums over.
    """

    def count(operands: Operands, out: Labels) -> Iterator[Sequence[Sized]]:
        left = _sized(operands[first])
        yield [*_sized(out), left[-1], *(left[dim] for dim in summed)]

    return count


def _attention(operands: Operands, out: Labels) -> Iterator[Sequence[Sized]]:
    """Queries by keys, then weights by values."""
    positions = _sized(operands["key"])[-2]
    yield [*_sized(operands["query"]), positions]
    yield [*_sized(out), positions]


def _recurrent(operands: Operands, _: Labels) -> Iterator[Sequence[Sized]]:
    """Every matrix is used once per step."""
    steps = _sized(operands["input" if "input" in operands else "data"])[:-1]
    for weight in operands["params"]:
        if isinstance(weight, Labels) and len(weight.shape) == 2:
            yield [*_sized(weight), *steps]


def _einsum(operands: Operands, _: Labels) -> Iterator[Sequence[Sized]]:
    """Operands are taken from left to right; letters of no later use are summed at once."""
    if "equation" not in operands:
        return
    terms, _, wanted = operands["equation"].replace(" ", "").partition("->")
    letters = [
        _spelled(term, labels)
        for term, labels in zip(terms.split(","), operands["tensors"], strict=True)
    ]
    seen = letters[0]
    for place, term in enumerate(letters[1:], 2):
        seen = term | seen  # a broadcast dimension has the size of the left operand
        yield list(seen.values())
        later = {letter for other in letters[place:] for letter in other} | set(wanted)
        seen = {x: size for x, size in seen.items() if x in later or x.startswith(".")}


def _spelled(term: str, labels: Labels) -> dict[str, Sized]:
    """Letter -> axis; the dimensions of an ellipsis are named from the right."""
    before, dots, after = term.partition("...")
    hidden = len(labels.shape) - len(before) - len(after)
    names = [*before, *(f".{place}" for place in range(hidden, 0, -1) if dots), *after]
    return dict(zip(names, _sized(labels), strict=True))


_COUNTERS: Mapping[str, Callable[[Operands, Labels], Iterator[Sequence[Sized]]]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "deform_conv2d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("convolution", "_convolution"), _general_convolution),
    **dict.fromkeys(("gru", "lstm", "rnn_relu", "rnn_tanh"), _recurrent),
    **dict.fromkeys(
        (
            "scaled_dot_product_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
        ),
        _attention,
    ),
    "addbmm": _product_of("batch1", summed=(0,)),
    "addmm": _product_of("mat1"),
    "addmv": _product_of("mat"),
    "baddbmm": _product_of("batch1"),
    "bmm": _product_of("self"),
    "dot": _product_of("self"),
    "einsum": _einsum,
    "linear": _linear,
    "matmul": _product_of("self"),
    "mm": _product_of("self"),
    "mv": _product_of("self"),
}
