"""Operators that give the same values another shape or order of dimensions, and their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from search.errors import OnnxError
from search.onnx_in.values import NodeCall, Op, Value, axis_of, check_count, numbers


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


def expand(call: NodeCall) -> Value:
    """Broadcast with a shape; sizes that are the input's already follow it."""
    x, wanted = call.value(0), call.ints(1)
    if not isinstance(x, Tensor):
        check_count(math.prod(wanted))
        return np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(wanted))))
    lead = max(len(wanted) - x.ndim, 0)
    wanted = [1] * (x.ndim - len(wanted)) + list(wanted)
    kept = {dim for dim, (kind, _) in enumerate(call.pattern or ()) if kind == "product"}
    sizes = [
        -1 if dim >= lead and (dim in kept or entry == 1) else entry
        for dim, entry in enumerate(wanted)
    ]
    return x.expand(sizes)


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


SHAPES: dict[str, Op] = {
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Reshape": reshape,
    "Shape": shape,
    "Size": size,
    "SpaceToDepth": space_to_depth,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
