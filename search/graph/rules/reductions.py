"""Reductions: free over dimensions that cannot shrink; a sum over units is exact."""

from __future__ import annotations

from collections.abc import Callable

from search.graph.call import Call, Outcome, dims_of
from search.graph.labels import Axis, Effect, freeze, total


def reduction(call: Call) -> Outcome:
    """Maximum, product, variance and the like: a removed unit would change the result."""
    return _reduce(call, lambda axis: freeze(axis, f"{call.op} reduces over its units"))


def sum_like(call: Call) -> Outcome:
    """Sums and norms: a unit of zeros counts nothing, so removing units is exact."""
    return _reduce(call, lambda axis: Effect())


def mean(call: Call) -> Outcome:
    """A mean over the kept units: approximate, as its divisor changes."""
    return _reduce(call, _approximate)


def over_fixed(call: Call) -> Outcome:
    """Softmax, sort and the like: the shape stays, and units along the dimension freeze."""
    dim = call.arguments.get("dim", -1)
    x = call.first
    frozen = [x.axes[d] for d in dims_of(dim, len(x.shape))] if x.shape else []
    return call.give(
        x.axes, total(freeze(axis, f"{call.op} runs over its units") for axis in frozen)
    )


def _approximate(axis: Axis) -> Effect:
    if axis is None:
        return Effect()
    return Effect(approximations=((axis[axis >= 0], "a mean runs over its units"),))


def _reduce(call: Call, over: Callable[[Axis], Effect]) -> Outcome:
    x = call.first
    given = call.arguments.get("dim", call.arguments.get("axis"))
    reduced = set(dims_of(given, len(x.shape)))
    effect = total(over(x.axes[dim]) for dim in reduced)
    if call.arguments.get("keepdim", False):
        axes = [None if dim in reduced else axis for dim, axis in enumerate(x.axes)]
    else:
        axes = [axis for dim, axis in enumerate(x.axes) if dim not in reduced]
    return call.give(axes, effect)
