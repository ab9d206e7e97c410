"""Operators that work index by index: aligned axes are one."""

from __future__ import annotations

from collections.abc import Sequence

from search.graph.dependency.labels import Axis, Effect, Labels, meet, tie, total
from search.graph.dependency.op_call import OpCall, Outcome


def elementwise(call: OpCall) -> Outcome:
    """Broadcast operands: where two of them have an extent, their axes are tied."""
    return call.give(*broadcast(call.inputs))


def same_axes(call: OpCall) -> Outcome:
    """The output has the axes of the first operand: dropout, clone, cumulative sums."""
    return call.give(call.first.axes)


def prelu(call: OpCall) -> Outcome:
    """One slope for all channels, or one for each of them (dimension 1)."""
    x, slope = call["self"], call["weight"]
    if slope.shape in ((), (1,)):
        return call.give(x.axes)
    return call.give(x.axes, tie(x.axis(1), slope.axis(0)))


def broadcast(operands: Sequence[Labels], inner: int = 0) -> tuple[list[Axis], Effect]:
    """The axes of `operands` but the last `inner`, tied as broadcasting aligns them."""
    rank = max(len(labels.shape) for labels in operands)
    met = [
        meet(axis for labels in operands for axis in aligned(labels, dim))
        for dim in range(-rank, -inner)
    ]
    return [axis for axis, _ in met], total(effect for _, effect in met)


def aligned(labels: Labels, dim: int) -> list[Axis]:
    """The axis at `dim`, counted from the end; none where the value is broadcast."""
    extends = len(labels.shape) >= -dim and labels.shape[dim] > 1
    return [labels.axes[dim]] if extends else []
