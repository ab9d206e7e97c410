"""Operators that work index by index: aligned axes are one."""

from __future__ import annotations

from search.graph.call import Call, Outcome
from search.graph.labels import Axis, Effect, Labels, tie


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
    effect = Effect()
    for dim in range(rank):
        joined, tied = _meet(
            [axis for labels in operands for axis in _aligned(labels, dim - rank)]
        )
        axes.append(joined)
        effect += tied
    return call.give(axes, effect)


def _aligned(labels: Labels, dim: int) -> list[Axis]:
    extends = len(labels.shape) >= -dim and labels.shape[dim] > 1
    return [labels.axes[dim]] if extends else []


def _meet(axes: list[Axis]) -> tuple[Axis, Effect]:
    """The axes that meet in one dimension of the output: all of them are one."""
    labelled = [axis for axis in axes if axis is not None]
    if not labelled:
        return None, Effect()
    effect = Effect()
    for axis in [*labelled[1:], *(axis for axis in axes if axis is None)]:
        effect += tie(labelled[0], axis)
    return labelled[0], effect
