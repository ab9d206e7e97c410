"""Operators that join values or take a part: splits, slices, repeats, padding, triangles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from search.errors import OnnxError
from search.onnx_in.values import NodeCall, Numbers, Op, Value, axis_of, check_count

FAR = 2**31 - 1
PADDING = {"constant": "constant", "edge": "replicate", "reflect": "reflect"}


def concat(call: NodeCall) -> Value:
    values = [value for value in call.inputs if value is not None]
    axis = axis_of(call.attributes["axis"], values[0].ndim)
    if call.on_numbers:
        return np.concatenate([value for value in values if isinstance(value, np.ndarray)], axis)
    tensors = [call.as_tensor(value) for value in values]
    return torch.cat(_batched(tensors), axis) if axis else torch.cat(tensors)


def _batched(tensors: list[Tensor]) -> list[Tensor]:
    """A constant of a model that was exported for one example is repeated for each."""
    batch = next((t.shape[0] for t in tensors if t.shape[0] != 1), 1)
    return [
        t.expand(batch, *[-1] * (t.ndim - 1)) if t.shape[0] == 1 and batch != 1 else t
        for t in tensors
    ]


def split(call: NodeCall) -> tuple[Value, ...]:
    """Into given sizes, or into equal parts of which the last may be smaller."""
    x = call.value(0)
    axis = axis_of(call.attributes.get("axis", 0), x.ndim)
    sizes = call.given(1, "split", 13)
    if sizes is None:
        parts = call.attributes.get("num_outputs", call.outputs)
        if parts != call.outputs:
            raise OnnxError(f"num_outputs must be {call.outputs}, but got {parts}")
        step = -(-x.shape[axis] // parts)
        sizes = [min(step, x.shape[axis] - step * place) for place in range(parts)]
    if isinstance(x, Tensor):
        return torch.split(x, sizes, axis)
    return tuple(np.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


def slicing(call: NodeCall) -> Value:
    """From start to end by step, per axis; beyond the ends is clamped."""
    x = call.value(0)
    starts, ends, given = (
        call.given(place, name, 10) for place, name in ((1, "starts"), (2, "ends"), (3, "axes"))
    )
    if starts is None or ends is None:
        raise OnnxError("starts and ends must be given, but are not")
    axes = list(range(len(starts))) if given is None else given
    steps = call.ints(4) if call.has(4) else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = _sliced(x, axis_of(axis, x.ndim), start, end, step)
    return x


def _sliced(x: Value, axis: int, start: int, end: int, step: int) -> Value:
    if not isinstance(x, Tensor):
        stop = None if step < 0 and end < -x.shape[axis] else end
        index: list[Any] = [slice(None)] * x.ndim
        index[axis] = slice(start, stop, step)
        numbers_: Numbers = x[tuple(index)]
        return numbers_
    if step == 0:
        raise OnnxError("steps must not be 0")
    if step < 0:
        length = x.shape[axis]
        first, last, _ = slice(start, None if end < -length else end, step).indices(length)
        count = max(0, -(-(first - last) // -step))
        lowest = first + step * (count - 1) if count else 0
        x, start, end, step = x, lowest, first + 1 if count else 0, -step
        return _aten_slice(x, axis, start, end, step).flip(axis)
    if start == 0 and step == 1 and end >= FAR:
        return x
    return _aten_slice(x, axis, start, min(end, 2**62), step)


def _aten_slice(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """One operator in an exported graph, whatever the axis."""
    cut: Tensor = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    return cut


def tile(call: NodeCall) -> Value:
    x, repeats = call.value(0), call.ints(1)
    if isinstance(x, Tensor):
        return x if all(times == 1 for times in repeats) else x.repeat(repeats)
    check_count(x.size * math.prod(repeats))
    return np.tile(x, repeats)


def pad(call: NodeCall) -> Value:
    """Constants, the reflection or the edge, before and after every dimension."""
    x, pads = call.tensor(0), call.given(1, "pads", 11)
    if pads is None:
        raise OnnxError("pads must be given, but are not")
    axes = call.ints(3) if call.has(3) else list(range(x.ndim))
    mode = call.attributes.get("mode", "constant")
    if mode not in PADDING:
        raise OnnxError(f"mode must be one of {sorted(PADDING)}, but got {mode!r}")
    before, after = [0] * x.ndim, [0] * x.ndim
    for place, axis in enumerate(axes):
        before[axis_of(axis, x.ndim)] = pads[place]
        after[axis_of(axis, x.ndim)] = pads[place + len(axes)]
    flat = [entry for dim in reversed(range(x.ndim)) for entry in (before[dim], after[dim])]
    while flat and flat[-2:] == [0, 0]:
        del flat[-2:]
    if not flat:
        return x
    if mode != "constant":
        flat += [0] * (2 * max(x.ndim - 2, 1) - len(flat))
        return functional.pad(x, flat, PADDING[mode])
    value = call.number(2) if call.has(2) else call.attributes.get("value", 0)
    return functional.pad(x, flat, "constant", value)


def trilu(call: NodeCall) -> Value:
    k = call.number(1) if call.has(1) else 0
    keep = torch.triu if call.attributes.get("upper", 1) else torch.tril
    return keep(call.tensor(0), k)


JOINS_AND_CUTS: dict[str, Op] = {
    "Concat": concat,
    "Pad": pad,
    "Slice": slicing,
    "Split": split,
    "Tile": tile,
    "Trilu": trilu,
}
