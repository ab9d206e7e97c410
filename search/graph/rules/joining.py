"""Operators that join values along a dimension, or part them."""

from __future__ import annotations

import numpy as np

from search.graph.call import Call, Outcome
from search.graph.labels import Axis, Effect, Labels, dense, freeze, tie, tie_columns
from search.graph.rules.shapes import CUT


def concatenate(call: Call) -> Outcome:
    """Atoms one after the other along `dim`; along the others the operands are one."""
    parts: list[Labels] = [part for part in call["tensors"] if part.shape != (0,)]
    rank = len(call.out.shape)
    joined = call.arguments.get("dim", 0) % rank
    axes: list[Axis] = []
    effect = Effect()
    for dim in range(rank):
        if dim == joined:
            axes.append(np.concatenate([dense(part.axes[dim], part.shape[dim]) for part in parts]))
        else:
            tied, meeting = _all_one([part.axes[dim] for part in parts])
            axes.append(tied)
            effect += meeting
    return call.give(axes, effect)


def stack(call: Call) -> Outcome:
    """A new dimension; along the others the operands are one."""
    parts: list[Labels] = list(call["tensors"])
    axes: list[Axis] = []
    effect = Effect()
    for dim in range(len(parts[0].shape)):
        tied, meeting = _all_one([part.axes[dim] for part in parts])
        axes.append(tied)
        effect += meeting
    axes.insert(call.arguments.get("dim", 0) % len(call.out.shape), None)
    return call.give(axes, effect)


def split(call: Call) -> Outcome:
    """Chunk, split: equal parts lose the same positions, so that the cuts stay in place."""
    x = call.first
    dim = call.arguments.get("dim", 0) % len(x.shape)
    axis = x.axes[dim]
    if axis is None:
        return call.give(x.axes)
    sizes = [out.shape[dim] for out in call.outputs]
    if len(set(sizes)) > 1:
        blank = (*x.axes[:dim], None, *x.axes[dim + 1 :])
        return call.give(blank, freeze(axis, CUT))
    rows = axis.reshape(len(sizes), -1)
    parts = [(*x.axes[:dim], row, *x.axes[dim + 1 :]) for row in rows]
    return call.give_each(parts, tie_columns(rows))


def unbind(call: Call) -> Outcome:
    """One output per index of a dimension that cannot shrink."""
    x = call.first
    dim = call.arguments.get("dim", 0) % len(x.shape)
    return call.give((*x.axes[:dim], *x.axes[dim + 1 :]), freeze(x.axes[dim], CUT))


def glu(call: Call) -> Outcome:
    """a · sigmoid(b), where a and b are the halves of the input."""
    x = call.first
    dim = call.arguments.get("dim", -1) % len(x.shape)
    axis = x.axes[dim]
    if axis is None:
        return call.give(x.axes)
    rows = axis.reshape(2, -1)
    return call.give((*x.axes[:dim], rows[0], *x.axes[dim + 1 :]), tie_columns(rows))


def _all_one(axes: list[Axis]) -> tuple[Axis, Effect]:
    labelled = next((axis for axis in axes if axis is not None), None)
    effect = Effect()
    for axis in axes:
        if axis is not labelled:
            effect += tie(labelled, axis)
    return labelled, effect
