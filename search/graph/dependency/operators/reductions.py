"""Reductions: free over dimensions that cannot shrink; a sum over units is exact."""

from __future__ import annotations

from collections.abc import Callable

from search.graph.dependency.labels import Axis, Effect, Labels, freeze, statistic, total
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.elementwise import broadcast, elementwise
from search.graph.exported.nodes import dims_of


def reduction(call: OpCall) -> Outcome:
    """Maximum, product and the like: a removed unit would change the result."""
    if isinstance(call.arguments.get("other"), Labels):
        return elementwise(call)
    return _reduce(call, lambda axis: freeze(axis, f"{call.op} reduces over its units"))


def sum_like(call: OpCall) -> Outcome:
    """Sums and norms: a unit of zeros counts nothing, so removing units is exact.

    A sum over a weight is another matter: what it sums is not zero where a unit is gone.
    """
    if call.first.weight:
        return _reduce(call, lambda axis: _approximate(axis, f"{call.op} runs over its weights"))
    return _reduce(call, lambda axis: Effect())


def mean(call: OpCall) -> Outcome:
    """A mean or variance over the kept units: approximate, as its divisor changes.

    A mean of zeros for the units that are gone could keep its divisor.
    """
    if call.op not in ("mean", "nanmean"):
        return _reduce(call, lambda axis: _approximate(axis, "a variance runs over its units"))
    x, reason = call.first, "a mean runs over its units"
    if call.op == "nanmean" or not x.vanishes or x.weight or x.batch & _reduced(call):
        return _reduce(call, lambda axis: _approximate(axis, reason))
    return _reduce(call, lambda axis: statistic(axis, reason))


def over_fixed(call: OpCall) -> Outcome:
    """Softmax, sort, top-k and the like: units along the dimension freeze."""
    x = call.first
    if not x.shape:
        return call.give(())
    over = dims_of(call.arguments.get("dim", -1), len(x.shape))
    axes = [None if dim in over else axis for dim, axis in enumerate(x.axes)]
    reason = f"{call.op} runs over its units"
    return call.give(axes, total(freeze(x.axes[dim], reason) for dim in over))


def cross(call: OpCall) -> Outcome:
    """The product of vectors of three along `dim`, by default the last, or the first of size 3."""
    (out,), effect = elementwise(call)
    default = -1 if call.op == "linalg_cross" else out.shape.index(3)
    given = call.arguments.get("dim")
    over = (default if given is None else given) % len(out.axes)
    axes = [None if dim == over else axis for dim, axis in enumerate(out.axes)]
    return call.give(axes, effect + freeze(out.axes[over], f"{call.op} runs over its units"))


def pairwise_distance(call: OpCall) -> Outcome:
    """A norm of the difference along the last dimension, to which every unit adds `eps`."""
    (*axes, last), effect = broadcast(call.inputs)
    effect += _approximate(last, "pairwise_distance adds eps for each of its units")
    return call.give([*axes, None] if call["keepdim"] else axes, effect)


def _approximate(axis: Axis, reason: str) -> Effect:
    return Effect() if axis is None else Effect(approximations=((axis[axis >= 0], reason),))


def _reduced(call: OpCall) -> set[int]:
    given = call.arguments.get("dim", call.arguments.get("axis"))
    return set(dims_of(given, len(call.first.shape)))


def _reduce(call: OpCall, over: Callable[[Axis], Effect]) -> Outcome:
    x, reduced = call.first, _reduced(call)
    effect = total(over(x.axes[dim]) for dim in reduced)
    if call.arguments.get("keepdim", False):
        axes = [None if dim in reduced else axis for dim, axis in enumerate(x.axes)]
    else:
        axes = [axis for dim, axis in enumerate(x.axes) if dim not in reduced]
    return call.give(axes, effect)
