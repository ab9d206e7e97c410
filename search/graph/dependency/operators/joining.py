"""Operators that join values along a dimension, or part them."""

from __future__ import annotations

import numpy as np

from search.graph.dependency.labels import (
    PICKED,
    Axis,
    Effect,
    Labels,
    cut,
    dense,
    freeze,
    meet,
    tie_columns,
    total,
)
from search.graph.dependency.op_call import OpCall, Outcome, PropagationRule


def concatenate(call: OpCall) -> Outcome:
    """Atoms one after the other along `dim`; along the others the operands are one."""
    return _concatenate(call, call.arguments.get("dim", 0) % len(call.out.shape))


def concatenate_along(dim: int) -> PropagationRule:
    """The rule of an operator that concatenates along a dimension, or the first of few."""

    def rule(call: OpCall) -> Outcome:
        rank = len(call.out.shape)
        if any(len(part.shape) < rank for part in call["tensors"]):
            return call.give_frozen("its units are stacked with a new dimension")
        return _concatenate(call, dim if dim < rank else 0)

    return rule


def _concatenate(call: OpCall, joined: int) -> Outcome:
    parts: list[Labels] = [part for part in call["tensors"] if part.shape != (0,)]
    rank = len(call.out.shape)
    axes: list[Axis] = []
    effect = Effect()
    for dim in range(rank):
        if dim == joined:
            axes.append(np.concatenate([dense(part.axes[dim], part.shape[dim]) for part in parts]))
        else:
            tied, meeting = meet(part.axes[dim] for part in parts)
            axes.append(tied)
            effect += meeting
    return call.give(axes, effect)


def stack(call: OpCall) -> Outcome:
    """A new dimension; along the others the operands are one."""
    parts: list[Labels] = list(call["tensors"])
    axes: list[Axis] = []
    effect = Effect()
    for dim in range(len(parts[0].shape)):
        tied, meeting = meet(part.axes[dim] for part in parts)
        axes.append(tied)
        effect += meeting
    axes.insert(call.arguments.get("dim", 0) % len(call.out.shape), None)
    return call.give(axes, effect)


def split(call: OpCall) -> Outcome:
    """Chunk, split: each part has its atoms.

    Equal parts lose the same positions, so that a model that halves its channels goes on doing so.
    """
    return _split(call, call.dim())


def split_along(dim: int) -> PropagationRule:
    """The rule of an operator that splits along a dimension, or the first of few."""

    def rule(call: OpCall) -> Outcome:
        return _split(call, dim if dim < len(call.first.shape) else 0)

    return rule


def _split(call: OpCall, dim: int) -> Outcome:
    x = call.first
    axis = x.axes[dim]
    if axis is None:
        return call.give(x.axes)
    sizes = [out.shape[dim] for out in call.outputs]
    ends = np.cumsum(sizes)
    cuts = [cut(axis, slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    parts = [(*x.axes[:dim], part, *x.axes[dim + 1 :]) for part, _ in cuts]
    effect = total(effect for _, effect in cuts)
    if len(set(sizes)) == 1:
        effect += tie_columns(axis.reshape(len(sizes), -1))
    return call.give_each(parts, effect)


def unbind(call: OpCall) -> Outcome:
    """One output per index of a dimension that cannot shrink."""
    x = call.first
    dim = call.dim()
    return call.give((*x.axes[:dim], *x.axes[dim + 1 :]), freeze(x.axes[dim], PICKED))


def glu(call: OpCall) -> Outcome:
    """a · sigmoid(b), where a and b are the halves of the input."""
    x = call.first
    dim = call.arguments.get("dim", -1) % len(x.shape)
    axis = x.axes[dim]
    if axis is None:
        return call.give(x.axes)
    rows = axis.reshape(2, -1)
    return call.give((*x.axes[:dim], rows[0], *x.axes[dim + 1 :]), tie_columns(rows))
