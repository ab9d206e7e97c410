"""Operators that read or write the entries that indices name."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from search.errors import OnnxError
from search.onnx_in.values import NodeCall, Numbers, Op, Value, axis_of, numbers


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


INDEXING: dict[str, Op] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
