"""Convolutions, linear layers and matrix products: columns read units, rows create them."""

from __future__ import annotations

import numpy as np

from search.graph.call import Call, Outcome
from search.graph.labels import Axis, Effect, Labels, freeze, role, tie, tie_columns, total

SPATIAL = "a convolution slides over its units"


def convolution(call: Call) -> Outcome:
    """x (…, I, *space), weight (O, I / groups, *kernel) -> (…, O, *space)."""
    weight = call["weight"]
    return _convolve(call, weight, weight.axes[0], weight.axes[1], call["groups"])


def transposed_convolution(call: Call) -> Outcome:
    """x (…, I, *space), weight (I, O / groups, *kernel) -> (…, O, *space)."""
    x, weight, groups = call["input"], call["weight"], call["groups"]
    if groups == 1:
        return _convolve(call, weight, weight.axes[1], weight.axes[0], 1)
    return _grouped_transposed(call, x, weight, groups)


def general_convolution(call: Call) -> Outcome:
    """aten.convolution: plain or transposed, by its `transposed` argument."""
    return (transposed_convolution if call["transposed"] else convolution)(call)


def _convolve(call: Call, weight: Labels, made: Axis, read: Axis, groups: int) -> Outcome:
    x, channel = call["input"], _channel(call, weight)
    effect = _space(x, channel) + _bias(call, made)
    if groups == 1:
        effect += tie(x.axis(channel), read) + role(made, weight, "producer")
        effect += role(read, weight, "consumer")
    else:
        effect += _tie_groups(x.axis(channel), made, groups)
        if x.shape[channel] != groups:
            effect += role(made, weight, "producer")
    return call.give(_channel_axes(call, made, channel), effect)


def _grouped_transposed(call: Call, x: Labels, weight: Labels, groups: int) -> Outcome:
    """Rows of the weight follow the input; an output group leaves with its input group."""
    channel = _channel(call, weight)
    rows = weight.axes[0]
    effect = _space(x, channel) + _tie_groups(x.axis(channel), rows, groups)
    made: Axis = None
    if rows is not None:
        leaders = rows.reshape(groups, -1)[:, 0]
        made = np.repeat(leaders, call.out.shape[channel] // groups)
    return call.give(_channel_axes(call, made, channel), effect + _bias(call, made))


def linear(call: Call) -> Outcome:
    """x (…, I), weight (O, I), bias (O,) -> (…, O)."""
    x, weight = call["input"], call["weight"]
    made, read = weight.axis(0), weight.axis(-1)
    effect = (
        tie(x.axis(-1), read) + role(made, weight, "producer") + role(read, weight, "consumer")
    )
    if len(weight.shape) == 1:
        return call.give(x.axes[:-1], effect)
    return call.give((*x.axes[:-1], made), effect + _bias(call, made))


def matmul(call: Call) -> Outcome:
    """a (…, n, k) @ b (…, k, m): the inner axes are one, the outer ones go through."""
    a, b = call.inputs[:2]
    if len(a.shape) < 2 or len(b.shape) < 2:
        return call.give_frozen("its units take part in a product with a vector")
    return call.give(*_product(call, a, b))


def addmm(call: Call) -> Outcome:
    """c + a @ b."""
    a, b, c = call["mat1"], call["mat2"], call["self"]
    axes, effect = _product(call, a, b)
    return call.give(axes, effect + tie(axes[-1], c.axis(-1)) if c.shape[-1:] != (1,) else effect)


def _product(call: Call, a: Labels, b: Labels) -> tuple[list[Axis], Effect]:
    effect = tie(a.axis(-1), b.axis(-2))
    effect += role(b.axis(-1), b, "producer") + role(b.axis(-2), b, "consumer")
    effect += role(a.axis(-2), a, "producer") + role(a.axis(-1), a, "consumer")
    axes: list[Axis] = []
    rank = len(call.out.shape)
    for dim in range(-rank, -2):
        sides = [x for x in (a, b) if len(x.shape) >= -dim and x.shape[dim] > 1]
        effect += tie(sides[0].axes[dim], sides[-1].axes[dim]) if len(sides) == 2 else Effect()
        axes.append(sides[0].axes[dim] if sides else None)
    return [*axes, a.axis(-2), b.axis(-1)], effect


def _channel(call: Call, weight: Labels) -> int:
    """The channel dimension: 1 with a batch, 0 without."""
    return len(call.out.shape) - len(weight.shape) + 1


def _space(x: Labels, channel: int) -> Effect:
    return total(freeze(axis, SPATIAL) for axis in x.axes[channel + 1 :])


def _bias(call: Call, made: Axis) -> Effect:
    bias = call["bias"]
    return tie(made, bias.axis(0)) if bias is not None else Effect()


def _channel_axes(call: Call, made: Axis, channel: int) -> tuple[Axis, ...]:
    """The batch, if any, then the channels, then space."""
    space = len(call.out.shape) - channel - 1
    return (*call["input"].axes[:channel], made, *(None,) * space)


def _tie_groups(read: Axis, made: Axis, groups: int) -> Effect:
    """A conv group is one unit: all that it reads and all that it makes."""
    if made is None:
        return freeze(read, "a convolution groups its units")
    rows = made.reshape(groups, -1)
    effect = tie_columns(rows.T)
    if read is None:
        return effect + tie(made, None)
    columns = read.reshape(groups, -1)
    return effect + tie_columns(columns.T) + tie(rows[:, 0], columns[:, 0])
