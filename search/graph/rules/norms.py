"""Normalisation: one gain, bias, mean and variance per unit."""

from __future__ import annotations

from search.graph.call import Call, Outcome
from search.graph.labels import Axis, Effect, tie, tie_columns, total

MIXES = "a norm takes its statistics over its units"


def batch_norm(call: Call) -> Outcome:
    """Also instance norm: statistics of each channel alone, so exact."""
    names = ("weight", "bias", "running_mean", "running_var")
    return call.give_each(
        [call["input"].axes] * len(call.outputs), _vectors(call, call["input"].axis(1), names)
    )


def layer_norm(call: Call) -> Outcome:
    """Statistics over the last dimensions, which may lose units: approximate."""
    x = call["input"]
    effect = Effect()
    for dim in range(-len(call["normalized_shape"]), 0):
        effect += _mixed(x.axis(dim))
        for name in ("weight", "bias"):
            vector = call.arguments.get(name)
            effect += tie(x.axis(dim), vector.axis(dim)) if vector is not None else Effect()
    return call.give(x.axes, effect)


def group_norm(call: Call) -> Outcome:
    """Each of `num_groups` norm groups loses the same positions, so that they stay equal."""
    x, groups = call["input"], call["num_groups"]
    axis = x.axis(1)
    effect = _mixed(axis) + _vectors(call, axis, ("weight", "bias"))
    if axis is not None:
        effect += tie_columns(axis.reshape(groups, -1))
    return call.give(x.axes, effect)


def _mixed(axis: Axis) -> Effect:
    return Effect() if axis is None else Effect(approximations=((axis[axis >= 0], MIXES),))


def _vectors(call: Call, axis: Axis, names: tuple[str, ...]) -> Effect:
    vectors = (call.arguments.get(name) for name in names)
    return total(tie(axis, vector.axis(0)) for vector in vectors if vector is not None)
