"""What a model takes as a function of its widths, as JSON: for readers without torch, which refuse
by it at once what no plan can keep to. `jobs.footprint` reads it.

A size is [constant, per_example, axes], each axis [always, [[group, indices], …]]: the constant,
times how many indices of each axis stay. A group is named by its place among the groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import nn

from search.graph.dependency.costs import Product
from search.graph.dependency.labels import FIXED, Atoms
from search.graph.dependency.memory import Activations


class Measurable(Protocol):
    """What a footprint needs of a `PruningGraph`, see there."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def group_of(self) -> Atoms: ...
    @property
    def shapes(self) -> Mapping[str, Sequence[int]]: ...
    @property
    def parameter_counts(self) -> tuple[Product, ...]: ...
    @property
    def activations(self) -> Activations: ...
    @property
    def parts(self) -> tuple[str, ...]: ...


def footprint(graph: Measurable) -> dict[str, Any]:
    """The sizes of parameters and values, which values are alive together, and names.

    Returns:
        `modules`: all names; `parameters`: name -> size, of a model that was traced in parts
        number -> size; `frozen`: those that do not require
        gradients, empty where none does; `values`: sizes, several of an operator with several
        outputs; `moments`: places of values that are alive together, None where the model was
        traced in parts.
    """
    parameters = dict(graph.model.named_parameters())
    frozen = [name for name, value in parameters.items() if not value.requires_grad]
    named = [name for name in parameters if name in graph.shapes]
    if graph.parts:  # in the order in which they are called
        named = [str(number) for number in range(len(graph.parameter_counts))]
    products = zip(named, graph.parameter_counts, strict=True)
    return {
        "modules": [name for name, _ in graph.model.named_modules() if name],
        "parameters": {name: _size(product, graph.group_of) for name, product in products},
        "frozen": frozen if len(frozen) < len(parameters) else [],
        "values": [
            [_size(product, graph.group_of) for product in value]
            for value in graph.activations.values
        ],
        "moments": None if graph.parts else [list(each) for each in graph.activations.moments],
    }


def _size(product: Product, group_of: Atoms) -> list[Any]:
    axes = [_axis(axis, group_of) for axis in product.axes]
    constant = product.constant
    return [constant // product.examples, product.examples > 1, axes]


def _axis(axis: Atoms, group_of: Atoms) -> list[Any]:
    owners = group_of[axis[axis != FIXED]]
    groups, counts = np.unique(owners[owners >= 0], return_counts=True)
    always = len(axis) - int(counts.sum())
    return [always, [[int(g), int(n)] for g, n in zip(groups, counts, strict=True)]]
