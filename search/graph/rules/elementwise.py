"""Operators that work index by index: aligned axes are one."""

from __future__ import annotations

from search.graph.call import Call, Outcome
from search.graph.labels import Axis, Labels, meet, tie, total


def elementwise(call: Call) -> Outcome:
    """Broadcast operands: where two of them have an extent, their axes are tied."""
    return join(call, call.inputs)


def same_axes(call: Call) -> Outcome:
    """The output has the axes of the first operand: dropout, clone, cumulative sums."""
    return call.give(call.first.axes)


def prelu(call: Call) -> Outcome:
    """One slope for all channels, or one for each of them (dimension 1)."""
    x, slope = call["self"], call["weight"]
    if slope.shape in ((), (1,)):
        return call.give(x.axes)
    return call.give(x.axes, tie(x.axis(1), slope.axis(0)))


def join(call: Call, operands: tuple[Labels, ...]) -> Outcome:
    """Tie `operands` as broadcasting aligns them."""
    rank = len(call.out.shape)
    axes: list[Axis] = []
    effects = []
    for dim in range(-rank, 0):
        joined, effect = meet(axis for labels in operands for axis in aligned(labels, dim))
        axes.append(joined)
        effects.append(effect)
    return call.give(axes, total(effects))


def aligned(labels: Labels, dim: int) -> list[Axis]:
    """The axis at `dim`, counted from the end; none where the value is broadcast."""
    extends = len(labels.shape) >= -dim and labels.shape[dim] > 1
    return [labels.axes[dim]] if extends else []
