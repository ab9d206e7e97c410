"""Convolutions: columns of the weight read units, its rows create them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from search.graph.dependency.labels import (
    Atoms,
    Axis,
    Effect,
    Labels,
    freeze,
    role,
    tie,
    tie_columns,
    total,
)
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.operator import (
    Arguments,
    Operands,
    Operator,
    SizedAxis,
    Sizes,
    always,
    sized,
)

SPATIAL = "a convolution slides over its units"


def convolution(call: OpCall) -> Outcome:
    """x (…, I, *space), weight (O, I / groups, *kernel) -> (…, O, *space)."""
    weight = call["weight"]
    return _convolve(call, weight, weight.axes[0], weight.axes[1], call["groups"])


def transposed_convolution(call: OpCall) -> Outcome:
    """x (…, I, *space), weight (I, O / groups, *kernel) -> (…, O, *space)."""
    x, weight, groups = call["input"], call["weight"], call["groups"]
    if groups == 1:
        return _convolve(call, weight, weight.axes[1], weight.axes[0], 1)
    return _grouped_transposed(call, x, weight, groups)


def general_convolution(call: OpCall) -> Outcome:
    """aten.convolution: plain or transposed, by its `transposed` argument."""
    return (transposed_convolution if call["transposed"] else convolution)(call)


def _convolve(call: OpCall, weight: Labels, made: Axis, read: Axis, groups: int) -> Outcome:
    if not isinstance(groups, int):
        return call.give_frozen("the groups of a convolution are as many as the examples")
    x, channel = call["input"], _channel(call, weight)
    effect = _space(x, channel) + _bias(call, made)
    if groups == 1:
        effect += tie(x.axis(channel), read) + role(made, weight, "producer")
        effect += role(read, weight, "consumer")
    elif made is not None and read is not None and len(made) > groups:
        effect += role(made, weight, "producer") + Effect(choices=((made, 2),))
        if call.choice % 2:
            effect += _tie_positions(x.axis(channel), made, read, groups)
            effect += role(read, weight, "consumer")
        else:
            effect += _tie_groups(x.axis(channel), made, groups)
    else:
        effect += _tie_groups(x.axis(channel), made, groups)
        if x.shape[channel] != groups:
            effect += role(made, weight, "producer")
    return call.give(_channel_axes(call, made, channel), effect)


def _grouped_transposed(call: OpCall, x: Labels, weight: Labels, groups: int) -> Outcome:
    """Rows of the weight follow the input; an output group leaves with its input group."""
    channel = _channel(call, weight)
    rows = weight.axes[0]
    effect = _space(x, channel) + _tie_groups(x.axis(channel), rows, groups)
    made: Axis = None
    if rows is not None:
        leaders = rows.reshape(groups, -1)[:, 0]
        made = np.repeat(leaders, call.out.shape[channel] // groups)
    return call.give(_channel_axes(call, made, channel), effect + _bias(call, made))


def _channel(call: OpCall, weight: Labels) -> int:
    """The channel dimension: 1 with a batch, 0 without."""
    return len(call.out.shape) - len(weight.shape) + 1


def _space(x: Labels, channel: int) -> Effect:
    return total(freeze(axis, SPATIAL) for axis in x.axes[channel + 1 :])


def _bias(call: OpCall, made: Axis) -> Effect:
    bias = call["bias"]
    return tie(made, bias.axis(0)) if bias is not None else Effect()


def _channel_axes(call: OpCall, made: Axis, channel: int) -> tuple[Axis, ...]:
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


def _tie_positions(x: Axis, made: Atoms, read: Atoms, groups: int) -> Effect:
    """All conv groups lose the same of their rows and the same of their columns."""
    return tie_columns(made.reshape(groups, -1)) + tie(x, np.tile(read, groups))


def _fewer_groups(sizes: Sizes, given: Arguments) -> Arguments | None:
    """Conv groups that have lost all their rows are gone."""
    weight, groups = sizes.input("weight"), given.get("groups", 1)
    axis = None if weight is None else weight.axis(0)
    if groups == 1 or axis is None or not sizes.shrinks(axis):
        return None
    return given | {"groups": sizes.parts(axis, groups)}


def _macs(operands: Operands, out: Labels) -> Iterator[Sequence[SizedAxis]]:
    """Every element of a weight is used once per output position."""
    return _per_position(operands["weight"], out)


def _transposed_macs(operands: Operands, out: Labels) -> Iterator[Sequence[SizedAxis]]:
    """Every element of a weight is used once per input position."""
    return _per_position(operands["weight"], operands["input"])


def _general_macs(operands: Operands, out: Labels) -> Iterator[Sequence[SizedAxis]]:
    return (_transposed_macs if operands.get("transposed") else _macs)(operands, out)


def _per_position(weight: Labels, positions: Labels) -> Iterator[Sequence[SizedAxis]]:
    rest = sized(positions)
    del rest[1 - len(weight.shape)]  # the channels; without a batch they come first
    yield [*sized(weight), *rest]


OPERATORS = (
    Operator(
        ("conv1d", "conv2d", "conv3d"),
        propagate=convolution,
        rewrite=_fewer_groups,
        macs=_macs,
        zeros=always,
        is_producer=True,
        reads_parameters=True,
    ),
    Operator(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        propagate=transposed_convolution,
        rewrite=_fewer_groups,
        macs=_transposed_macs,
        zeros=always,
        is_producer=True,
        reads_parameters=True,
    ),
    Operator(
        ("convolution",),
        propagate=general_convolution,
        rewrite=_fewer_groups,
        macs=_general_macs,
        zeros=always,
        is_producer=True,
        reads_parameters=True,
    ),
    Operator(("_convolution",), macs=_general_macs),
    Operator(("deform_conv2d",), macs=_macs),
)
