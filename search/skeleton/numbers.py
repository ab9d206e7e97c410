"""Reads and writes every number of an ONNX graph that may depend on a width.

These are the dims of initializers, inputs and outputs, the values of small integer initializers,
the lengths of those that count up, and the integer attributes of nodes. Everything else is
structure. Knows nothing of plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper

SMALL = 64  # elements: a longer integer constant is an index table, and part of the structure
RAMP = 4  # elements: at least as many integers that count up from 0 are stored as their number
_INTEGERS = frozenset((TensorProto.INT64, TensorProto.INT32))


def numbers(proto: ModelProto) -> list[int]:
    """All numbers, in a fixed order."""
    values: list[int] = []

    def note(value: int) -> int:
        values.append(value)
        return value

    _map_numbers(_copy(proto), note)
    return values


def structure(proto: ModelProto) -> bytes:
    """What is left when every number is zero: equal for models that differ in numbers only."""
    blank = _copy(proto)
    _map_numbers(blank, lambda value: 0)
    left: bytes = blank.SerializeToString(deterministic=True)
    return left


def with_numbers(proto: ModelProto, values: Sequence[int]) -> ModelProto:
    """A copy that holds these numbers instead of its own."""
    result = _copy(proto)
    remaining = iter(values)
    _map_numbers(result, lambda value: next(remaining))
    return result


def _is_ramp(tensor: TensorProto) -> bool:
    """0, 1, 2, …: the indices of a whole dimension, which grow and shrink with it."""
    count = prod(tensor.dims)
    return count >= RAMP and bool(
        (numpy_helper.to_array(tensor).ravel() == np.arange(count)).all()
    )


def _copy(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    return copy


def _map_numbers(proto: ModelProto, change: Callable[[int], int]) -> None:
    graph = proto.graph
    for tensor in graph.initializer:
        if tensor.data_type in _INTEGERS and _is_ramp(tensor):
            shape = [change(dim) for dim in tensor.dims]
            ramp = np.arange(prod(shape), dtype=numpy_helper.to_array(tensor).dtype)
            tensor.CopyFrom(numpy_helper.from_array(ramp.reshape(shape), tensor.name))
        elif tensor.data_type in _INTEGERS and prod(tensor.dims) <= SMALL:
            values = numpy_helper.to_array(tensor)
            changed = np.array([change(int(v)) for v in values.flat], dtype=values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(changed.reshape(values.shape), tensor.name))
        elif tensor.data_location == TensorProto.EXTERNAL:
            tensor.dims[:] = [change(dim) for dim in tensor.dims]
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_value = change(dim.dim_value)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT:
                attribute.i = change(attribute.i)
            elif attribute.type == AttributeProto.INTS:
                attribute.ints[:] = [change(value) for value in attribute.ints]
