"""Operators that move values without computing: sizes, reshapes, joins and cuts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from search.errors import OnnxError
from search.onnx_in.values import (
    MAX_NUMBERS,
    NodeCall,
    Numbers,
    Op,
    Value,
    axis_of,
    numbers,
)

FAR = 2**31 - 1


def shape(call: NodeCall) -> Value:
    """The sizes as numbers; of a part of the dimensions since opset 15."""
    x = call.value(0)
    return numbers(list(x.shape)[call.attributes.get("start", 0) : call.attributes.get("end")])


def size(call: NodeCall) -> Value:
    return numbers(math.prod(call.value(0).shape))


def reshape(call: NodeCall) -> Value:
    """0 copies a size, −1 is what remains; sizes that follow from the input's do so."""
    x, wanted = call.value(0), call.ints(1)
    if not call.attributes.get("allowzero", 0):
        wanted = [x.shape[dim] if entry == 0 else entry for dim, entry in enumerate(wanted)]
    if not isinstance(x, Tensor):
        return x.reshape(wanted)
    return x.reshape(followed(x, wanted, call))


def followed(x: Tensor, wanted: Sequence[int], call: NodeCall) -> list[int]:
    """The sizes that the pattern derives from those of `x`, the others as `wanted`."""
    if call.pattern is None or len(call.pattern) != len(wanted):
        return list(wanted)
    sizes = []
    for (kind, numbers_), given in zip(call.pattern, wanted, strict=True):
        if kind == "product":
            sizes.append(math.prod(x.shape[dim] for dim in numbers_))
        elif kind == "quotient":
            sizes.append(x.shape[numbers_[0]] // numbers_[1])
        else:
            sizes.append(given)
    return sizes


def flatten(call: NodeCall) -> Value:
    """Two dimensions: those before the axis, and those from it on."""
    x = call.tensor(0)
    axis = call.attributes.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1:
        return x.flatten(1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(call: NodeCall) -> Value:
    x = call.value(0)
    order = tuple(call.attributes.get("perm", range(x.ndim)[::-1]))
    if sorted(order) != list(range(x.ndim)):
        raise OnnxError(f"perm must order {x.ndim} dimensions, but got {list(order)}")
    return x.permute(order) if isinstance(x, Tensor) else x.transpose(order)


def squeeze(call: NodeCall) -> Value:
    x, axes = call.value(0), call.given(1, "axes", 13)
    chosen = (
        [dim for dim, entry in enumerate(x.shape) if entry == 1]
        if axes is None
        else [axis_of(axis, x.ndim) for axis in axes]
    )
    if isinstance(x, Tensor):
        return x.squeeze(tuple(chosen))
    return x.reshape([entry for dim, entry in enumerate(x.shape) if dim not in chosen])


def unsqueeze(call: NodeCall) -> Value:
    x, axes = call.value(0), call.given(1, "axes", 13)
    if axes is None:
        raise OnnxError("axes must be given, but are not")
    for axis in sorted(axis_of(axis, x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis) if isinstance(x, Tensor) else np.expand_dims(x, axis)
    return x


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
        step = -(-x.shape[axis] // parts)
        sizes = [min(step, x.shape[axis] - step * place) for place in range(parts)]
    if isinstance(x, Tensor):
        return torch.split(x, sizes, axis)
    return tuple(np.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


def slicing(call: NodeCall) -> Value:
    """From start to end by step, per axis; beyond the ends is clamped."""
    x, starts, ends = call.value(0), call.ints(1), call.ints(2)
    axes = call.ints(3) if call.has(3) else list(range(len(starts)))
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


def gather(call: NodeCall) -> Value:
    """Entries along an axis; the dimensions of the indices take its place."""
    x, index = call.value(0), call.value(1)
    axis = axis_of(call.attributes.get("axis", 0), x.ndim)
    if not isinstance(x, Tensor) and not isinstance(index, Tensor):
        taken = np.take(x, index.astype(np.int64), axis)
        return taken if isinstance(taken, np.ndarray) else numbers(taken)
    x = call.as_tensor(x)
    if not isinstance(index, Tensor):
        return _gather_known(x, axis, index, call)
    index = torch.where(index < 0, index + x.shape[axis], index)
    taken_tensor = x.index_select(axis, index.reshape(-1))
    return taken_tensor.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


def _gather_known(x: Tensor, axis: int, index: Numbers, call: NodeCall) -> Tensor:
    """Known indices: one is a select, neighbours are a slice."""
    if index.ndim == 0:
        return x.select(axis, index.item())
    flat = [int(entry) for entry in index.flat]
    if index.ndim == 1 and flat[0] >= 0 and flat == list(range(flat[0], flat[0] + len(flat))):
        return x.narrow(axis, flat[0], len(flat))
    size_ = x.shape[axis]
    chosen = torch.tensor([entry % size_ for entry in flat], device=call.device)
    return x.index_select(axis, chosen).reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


def gather_elements(call: NodeCall) -> Value:
    x, index = call.tensor(0), call.tensor(1)
    axis = axis_of(call.attributes.get("axis", 0), x.ndim)
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


def gather_nd(call: NodeCall) -> Value:
    """Entries named by all their leading indices."""
    x, index = call.tensor(0), call.tensor(1)
    if call.attributes.get("batch_dims", 0):
        raise OnnxError("batch_dims must be 0")
    return x[tuple(index.unbind(-1))]


def scatter_nd(call: NodeCall) -> Value:
    """A copy in which the named entries have other values."""
    x, index, updates = call.tensor(0), call.tensor(1), call.tensor(2)
    if call.attributes.get("reduction", "none") != "none":
        raise OnnxError("reduction must be none")
    return x.index_put(tuple(index.unbind(-1)), updates)


def scatter_elements(call: NodeCall) -> Value:
    """A copy in which, along an axis, the named entries have other values."""
    x, index, updates = call.tensor(0), call.tensor(1), call.tensor(2)
    if call.attributes.get("reduction", "none") != "none":
        raise OnnxError("reduction must be none")
    axis = axis_of(call.attributes.get("axis", 0), x.ndim)
    return x.scatter(axis, torch.where(index < 0, index + x.shape[axis], index), updates)


def one_hot(call: NodeCall) -> Value:
    """One of two values, by whether the place along a new axis is the index."""
    index, depth, (off, on) = call.tensor(0), call.number(1), call.tensor(2).unbind()
    axis = axis_of(call.attributes.get("axis", -1), index.ndim + 1)
    places = torch.arange(depth, device=index.device)
    places = places.reshape([-1 if dim == axis else 1 for dim in range(index.ndim + 1)])
    wrapped = torch.where(index < 0, index + depth, index)
    return torch.where(wrapped.unsqueeze(axis) == places, on, off)


def expand(call: NodeCall) -> Value:
    """Broadcast with a shape; sizes that are the input's already follow it."""
    x, wanted = call.value(0), call.ints(1)
    if not isinstance(x, Tensor):
        _limit(math.prod(wanted))
        return np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(wanted))))
    lead = max(len(wanted) - x.ndim, 0)
    wanted = [1] * (x.ndim - len(wanted)) + list(wanted)
    kept = {dim for dim, (kind, _) in enumerate(call.pattern or ()) if kind == "product"}
    sizes = [
        -1 if dim >= lead and (dim in kept or entry == 1) else entry
        for dim, entry in enumerate(wanted)
    ]
    return x.expand(sizes)


def tile(call: NodeCall) -> Value:
    x, repeats = call.value(0), call.ints(1)
    if isinstance(x, Tensor):
        return x if all(times == 1 for times in repeats) else x.repeat(repeats)
    _limit(x.size * math.prod(repeats))
    return np.tile(x, repeats)


def _limit(count: int) -> None:
    if count > MAX_NUMBERS:
        raise OnnxError(f"numbers must be ≤ {MAX_NUMBERS}, but got {count}")


def pad(call: NodeCall) -> Value:
    """Constants, the reflection or the edge, before and after every dimension."""
    x, pads = call.tensor(0), call.ints(1)
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
    value = call.number(2) if call.has(2) else 0
    return functional.pad(x, flat, "constant", value)


PADDING = {"constant": "constant", "edge": "replicate", "reflect": "reflect"}


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
        _limit(len(range(start, limit, delta)))
        return numbers(range(start, limit, delta))
    return torch.arange(start, limit, delta, device=call.device)


def depth_to_space(call: NodeCall) -> Value:
    """Channels become b × b squares; DCR and CRD differ in the order of the channels."""
    x, block = call.tensor(0), call.attributes["blocksize"]
    if call.attributes.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    depth = channels // block**2
    x = x.reshape(batch, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, depth, height * block, width * block)


def space_to_depth(call: NodeCall) -> Value:
    """b × b squares become channels, the place in the square first."""
    x, block = call.tensor(0), call.attributes["blocksize"]
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // block, block, width // block, block)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(
        batch, channels * block**2, height // block, width // block
    )


def trilu(call: NodeCall) -> Value:
    k = call.number(1) if call.has(1) else 0
    keep = torch.triu if call.attributes.get("upper", 1) else torch.tril
    return keep(call.tensor(0), k)


SHAPES: dict[str, Op] = {
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "Pad": pad,
    "Range": arange,
    "Reshape": reshape,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Shape": shape,
    "Size": size,
    "Slice": slicing,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
