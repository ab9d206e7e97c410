"""Normalisation: one gain, bias, mean and variance per unit."""

from __future__ import annotations

from search.graph.dependency.labels import Axis, Effect, statistic, tie, tie_columns, total
from search.graph.dependency.op_call import OpCall, Outcome

MANY = 8  # norm groups, of which half can leave without a coarse choice
MIXES = "a norm takes its statistics over its units"


def batch_norm(call: OpCall) -> Outcome:
    """Each channel by its own statistics, so exact; those of a batch may run over other units."""
    x = call["input"]
    effect = _vectors(call, x.axis(1), ("weight", "bias", "running_mean", "running_var"))
    if call.arguments.get("training", call.arguments.get("use_input_stats")):
        effect += total(_mixed(axis) for dim, axis in enumerate(x.axes) if dim != 1)
    return call.give_each([x.axes] * len(call.outputs), effect)


def layer_norm(call: OpCall) -> Outcome:
    """Statistics over the last dimensions, which may lose units: approximate. Also RMS norm."""
    x = call["input"]
    effect = Effect()
    for dim in range(-len(call["normalized_shape"]), 0):
        effect += statistic(x.axis(dim), MIXES) if x.vanishes else _mixed(x.axis(dim))
        for name in ("weight", "bias"):
            vector = call.arguments.get(name)
            effect += tie(x.axis(dim), vector.axis(dim)) if vector is not None else Effect()
    return call.give(x.axes, effect)


def group_norm(call: OpCall) -> Outcome:
    """Of many norm groups whole ones leave, which is exact.

    Each of a few loses the same positions, so that they stay equal; its statistics change.
    """
    x, groups = call["input"], call["num_groups"]
    axis = x.axis(1)
    effect = total(_mixed(own) for own in x.axes[2:]) + _vectors(call, axis, ("weight", "bias"))
    if axis is None:
        return call.give(x.axes, effect)
    rows = axis.reshape(groups, -1)
    effect += tie_columns(rows.T) if groups >= MANY else _mixed(axis) + tie_columns(rows)
    return call.give(x.axes, effect)


def weight_norm(call: OpCall) -> Outcome:
    """g · v / |v|, the norm over all dimensions but one: approximate where these lose units."""
    v, g, dim = call["v"], call["g"], call["dim"]
    effect = total(_mixed(axis) for place, axis in enumerate(v.axes) if place != dim)
    return call.give_each(
        [v.axes, *(out.axes for out in call.outputs[1:])],
        effect + tie(v.axes[dim], g.axes[dim]),
    )


def _mixed(axis: Axis) -> Effect:
    return Effect() if axis is None else Effect(approximations=((axis[axis >= 0], MIXES),))


def _vectors(call: OpCall, axis: Axis, names: tuple[str, ...]) -> Effect:
    vectors = (call.arguments.get(name) for name in names)
    return total(tie(axis, vector.axis(0)) for vector in vectors if vector is not None)
