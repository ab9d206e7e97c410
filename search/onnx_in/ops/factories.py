"""Operators that make values from sizes or bounds alone."""

from __future__ import annotations

import math

import numpy as np
import torch

from search.onnx_in.values import MAX_NUMBERS, NodeCall, Op, Value, check_count, numbers


def constant_of_shape(call: NodeCall) -> Value:
    """One value everywhere; few numbers stay numbers."""
    sizes = call.ints(0)
    filler = call.attributes.get("value", 0.0)
    known = all(isinstance(entry, int) for entry in sizes)
    if known and len(sizes) <= 1 and math.prod(sizes) <= MAX_NUMBERS:
        return np.full(sizes, filler, object)
    kind = call.dtype if isinstance(filler, float) else None
    return torch.full(sizes, filler, dtype=kind, device=call.device)


def arange(call: NodeCall) -> Value:
    start, limit, delta = (call.number(place) for place in range(3))
    if all(isinstance(entry, int) for entry in (start, limit, delta)):
        check_count(len(range(start, limit, delta)))
        return numbers(range(start, limit, delta))
    return torch.arange(start, limit, delta, device=call.device)


FACTORIES: dict[str, Op] = {
    "ConstantOfShape": constant_of_shape,
    "Range": arange,
}
