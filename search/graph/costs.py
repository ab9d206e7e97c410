"""Parameters and multiply-accumulates as functions of the units kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import fx

from search.graph.exporting import BATCH
from search.graph.labels import FIXED, Axis, Labels
from search.graph.propagation import Propagation, operator_name

Kept: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Product:
    """A count: `constant` times the number of indices kept along each of `axes`."""

    constant: int
    axes: tuple[tuple[Axis, int], ...]

    def at(self, kept: Kept) -> int:
        """The count when `kept[atom]` tells which atoms stay."""
        return self.constant * math.prod(_length(axis, size, kept) for axis, size in self.axes)


def _length(axis: Axis, size: int, kept: Kept) -> int:
    if axis is None:
        return size
    labelled = axis != FIXED
    return int(kept[axis[labelled]].sum() + (~labelled).sum())


def _elements(labels: Labels, constant: int = 1) -> Product:
    return Product(constant, tuple(zip(labels.axes, labels.shape, strict=True)))


def parameter_products(
    tensors: Mapping[str, Labels], parameters: Iterable[str]
) -> tuple[Product, ...]:
    """One product per parameter: its number of elements."""
    return tuple(_elements(tensors[name]) for name in parameters if name in tensors)


def mac_products(found: Propagation) -> tuple[Product, ...]:
    """One product per convolution and linear layer, for one example."""
    return tuple(_macs(found))


def _macs(found: Propagation) -> Iterator[Product]:
    """Every element of a weight is used once per output position (transposed: input position)."""
    for node, outputs in found.values.items():
        operator = operator_name(node)
        weighted = operator == "linear" or operator.startswith("conv")
        if node.op != "call_function" or not weighted or len(node.args) < 2:
            continue
        x, weight = (_labels(found, argument) for argument in node.args[:2])
        if operator == "linear":
            positions = math.prod(outputs[0].shape[:-1])
        else:
            read = x if "transpose" in operator else outputs[0]
            positions = math.prod(read.shape) // read.shape[1 - len(weight.shape)]
        yield _elements(weight, positions // BATCH)


def _labels(found: Propagation, argument: object) -> Labels:
    if not isinstance(argument, fx.Node):
        raise TypeError(f"an operand must be a node, but got {argument!r}")
    return found.values[argument][0]
