"""Windows as columns and back: unfold, fold."""

from __future__ import annotations

import math

import numpy as np

from search.graph.dependency.labels import freeze, tie_columns, total
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.operator import Operator

WINDOWS = "windows slide over its units"


def to_columns(call: OpCall) -> Outcome:
    """im2col: (B, C, H, W) -> (B, C · window, windows); a unit has its whole window."""
    x = call.first
    axis = x.axis(-3)
    wide = None if axis is None else np.repeat(axis, math.prod(call["kernel_size"]))
    effect = total(freeze(own, WINDOWS) for own in x.axes[-2:])
    return call.give((*x.axes[:-3], wide, None), effect)


def from_columns(call: OpCall) -> Outcome:
    """col2im: (B, C · window, windows) -> (B, C, H, W); a channel leaves with its window."""
    x = call.first
    axis, effect = x.axis(-2), freeze(x.axis(-1), WINDOWS)
    if axis is None:
        return call.give((*x.axes[:-2], None, None, None), effect)
    rows = axis.reshape(-1, math.prod(call["kernel_size"]))
    return call.give((*x.axes[:-2], rows[:, 0], None, None), effect + tie_columns(rows.T))


def sliding(call: OpCall) -> Outcome:
    """Tensor.unfold: windows along one dimension, which become a last one."""
    x, dim = call.first, call["dimension"] % len(call.first.shape)
    axes = [*x.axes[:dim], None, *x.axes[dim + 1 :], None]
    return call.give(axes, freeze(x.axes[dim], WINDOWS))


def sampled(call: OpCall) -> Outcome:
    """grid_sample: space is read at the points of a grid."""
    x, grid = call["input"], call["grid"]
    frozen = (*x.axes[2:], *grid.axes[1:])
    space = (None,) * (len(x.shape) - 2)
    return call.give((*x.axes[:2], *space), total(freeze(axis, WINDOWS) for axis in frozen))


OPERATORS = (
    Operator(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), propagate=sampled),
    Operator(("col2im",), propagate=from_columns),
    Operator(("im2col",), propagate=to_columns),
    Operator(("unfold",), propagate=sliding),
)
