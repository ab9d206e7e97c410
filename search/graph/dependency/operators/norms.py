"""Normalisation: one gain, bias, mean and variance per unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import fx

from search.graph.dependency.labels import Axis, Effect, Labels, statistic, tie, tie_columns, total
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.operator import (
    Arguments,
    Kept,
    Operator,
    Sizes,
    Statistic,
    always,
    by_output,
    gather_each,
    gathered,
    of_all_inputs,
)
from search.graph.dependency.operators.reductions import counting_mean

MANY = 8  # norm groups, of which half can leave without a coarse choice
MIXES = "a norm takes its statistics over its units"
LAYER_NORM_EPSILON = 1e-5  # where the call names none

CountingNorm: TypeAlias = Callable[[fx.Graph, Mapping[str, Any], Sequence[int], int], fx.Node]

_aten = torch.ops.aten


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


def _zeros_by_gain(call: OpCall, out: Labels) -> bool:
    """The gain of a unit that is gone is zero, and so is its bias."""
    return call.arguments.get("weight") is not None


def _zeros_of_rms_norm(call: OpCall, out: Labels) -> bool:
    return _zeros_by_gain(call, out) or of_all_inputs(call, out)


def _fewer_norm_groups(sizes: Sizes, given: Arguments) -> Arguments | None:
    """Norm groups that have lost all channels are gone."""
    x, groups = sizes.input("input"), given["num_groups"]
    axis = None if x is None else x.axis(1)
    if axis is None or not sizes.shrinks(axis):
        return None
    return given | {"num_groups": sizes.parts(axis, groups)}


def _rewritten_norm(
    counting: CountingNorm, epsilon: float | None, sizes: Sizes, given: Arguments
) -> Arguments | fx.Node | None:
    """The norm of the shape that is left, or one that counts removed units as zeros."""
    dims = range(-len(given["normalized_shape"]), 0)
    count = sizes.counted("input", dims)
    if count is None:
        return by_output("normalized_shape")(sizes, given)
    small = given.get("eps", epsilon)
    return counting(
        sizes.graph, {**given, "eps": sizes.epsilon if small is None else small}, dims, count
    )


def _counting_rms_norm(
    graph: fx.Graph, given: Mapping[str, Any], dims: Sequence[int], count: int
) -> fx.Node:
    """x / √(Σ x² / N + ε) · gain."""
    call, x = graph.call_function, given["input"]
    power = _average(graph, call(_aten.mul.Tensor, (x, x)), dims, count)
    return _scaled(graph, x, power, given)


def _counting_layer_norm(
    graph: fx.Graph, given: Mapping[str, Any], dims: Sequence[int], count: int
) -> fx.Node:
    """(x − m) / √(v + ε) · gain + bias, with m = Σ x / N and v = Σ x (x − m) / N.

    N is how many values there are, removed ones among them; what is gone adds nothing to the sums.
    """
    call, x = graph.call_function, given["input"]
    centred = call(_aten.sub.Tensor, (x, _average(graph, x, dims, count)))
    variance = _average(graph, call(_aten.mul.Tensor, (x, centred)), dims, count)
    return _scaled(graph, centred, variance, given)


def _average(graph: fx.Graph, x: fx.Node, dims: Sequence[int], count: int) -> fx.Node:
    return counting_mean(graph, {"self": x, "keepdim": True}, dims, count)


def _scaled(graph: fx.Graph, x: fx.Node, power: fx.Node, given: Mapping[str, Any]) -> fx.Node:
    call = graph.call_function
    scale = call(_aten.rsqrt.default, (call(_aten.add.Scalar, (power, given["eps"])),))
    made = call(_aten.mul.Tensor, (x, scale))
    for operator, name in ((_aten.mul.Tensor, "weight"), (_aten.add.Tensor, "bias")):
        if given.get(name) is not None:
            made = call(operator, (made, given[name]))
    return made


def _gather_layer_norm(args: Sequence[Any], kept: Kept) -> list[Any]:
    x = gathered(args[0], kept)
    lead = x.ndim - len(args[1])
    inner = {dim - lead: own for dim, own in kept.items() if dim >= lead}
    return [x, list(x.shape[lead:]), *gather_each(args[2:], inner)]


def _gather_group_norm(args: Sequence[Any], kept: Kept) -> list[Any] | None:
    """Where whole norm groups leave, the others compute what they did."""
    if 1 in kept and kept.keys() <= {1}:
        left = torch.zeros(args[0].shape[1], dtype=torch.bool, device=args[0].device)
        left[kept[1]] = True
        if not bool(left.view(args[1], -1).any(1).all()):
            return None
    inner = {0: kept[1]} if 1 in kept else {}
    return [gathered(args[0], kept), args[1], *gather_each(args[2:], inner)]


def _gather_batch_norm(args: Sequence[Any], kept: Kept) -> list[Any] | None:
    """Statistics of the batch itself, over dimensions that lose units."""
    if not args[5] or kept.keys() <= {1}:
        return None
    inner = {0: kept[1]} if 1 in kept else {}
    return [gathered(args[0], kept), *gather_each(args[1:5], inner), *args[5:]]


OPERATORS = (
    Operator(
        ("batch_norm",),
        propagate=batch_norm,
        zeros=always,
        statistic=Statistic(_gather_batch_norm),
        reads_parameters=True,
        training_flag=5,
    ),
    # A norm over the unit alone undoes a perturbation that was made before it: both are producers.
    Operator(
        ("instance_norm",),
        propagate=batch_norm,
        statistic=Statistic(_gather_batch_norm),
        is_producer=True,
        training_flag=5,
    ),
    Operator(
        ("group_norm",),
        propagate=group_norm,
        rewrite=_fewer_norm_groups,
        zeros=_zeros_by_gain,
        statistic=Statistic(_gather_group_norm),
        is_producer=True,
        reads_parameters=True,
    ),
    Operator(
        ("layer_norm",),
        propagate=layer_norm,
        rewrite=partial(_rewritten_norm, _counting_layer_norm, LAYER_NORM_EPSILON),
        zeros=_zeros_by_gain,
        statistic=Statistic(_gather_layer_norm, counts_removed=True),
        reads_parameters=True,
    ),
    Operator(
        ("rms_norm",),
        propagate=layer_norm,
        rewrite=partial(_rewritten_norm, _counting_rms_norm, None),
        zeros=_zeros_of_rms_norm,
        statistic=Statistic(_gather_layer_norm, counts_removed=True),
    ),
    Operator(("_weight_norm", "_weight_norm_interface"), propagate=weight_norm),
)
