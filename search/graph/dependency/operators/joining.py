"""Operators that join values along a dimension, or part them."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

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
from search.graph.dependency.operators.operator import (
    Arguments,
    Operator,
    RewriteRule,
    Sizes,
    of_all_inputs,
)


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


def _rewritten_split(sizes: Sizes, given: Arguments, dim: int = 0) -> Arguments | None:
    """Parts of the sizes that are left; also of a chunk, which would cut in other places."""
    dim = given.get("dim", dim)
    axes = [out.axis(dim) for out in sizes.outputs]
    if all(axis is None for axis in axes):
        return None
    parts = [
        out.shape[dim] if axis is None else sizes.count(axis)
        for out, axis in zip(sizes.outputs, axes, strict=True)
    ]
    target = torch.ops.aten.split_with_sizes.default
    return {"target": target, "self": given["self"], "split_sizes": parts, "dim": dim}


def _along(dim: int) -> RewriteRule:
    return partial(_rewritten_split, dim=dim)


OPERATORS = (
    Operator(("cat",), propagate=concatenate, zeros=of_all_inputs),
    Operator(("concat", "concatenate"), propagate=concatenate),
    Operator(("column_stack", "hstack"), propagate=concatenate_along(1)),
    Operator(("row_stack", "vstack"), propagate=concatenate_along(0)),
    Operator(("dstack",), propagate=concatenate_along(2)),
    Operator(
        ("chunk", "split", "split_with_sizes"),
        propagate=split,
        rewrite=_rewritten_split,
        zeros=of_all_inputs,
    ),
    Operator(("tensor_split",), propagate=split, rewrite=_rewritten_split),
    Operator(("unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes"), propagate=split),
    Operator(("vsplit",), propagate=split_along(0), rewrite=_along(0)),
    Operator(("hsplit",), propagate=split_along(1), rewrite=_along(1)),
    Operator(("dsplit",), propagate=split_along(2), rewrite=_along(2)),
    Operator(("glu",), propagate=glu),
    Operator(("stack",), propagate=stack),
    Operator(("unbind",), propagate=unbind),
)
