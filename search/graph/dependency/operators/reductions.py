"""Reductions: free over dimensions that cannot shrink; a sum over units is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from search.graph.dependency.labels import Axis, Effect, Labels, freeze, statistic, total
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.elementwise import broadcast, elementwise
from search.graph.dependency.operators.operator import (
    Arguments,
    Kept,
    Operator,
    Sizes,
    Statistic,
    gathered,
    of_all_inputs,
)
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


def _gather_reduced(args: Sequence[Any], kept: Kept) -> list[Any]:
    """Dimensions that the statistic keeps are masked afterwards, so they must not be gathered."""
    x = args[0]
    given = args[1] if len(args) > 1 and not isinstance(args[1], bool) else None
    reduced = dims_of(given, x.ndim)
    return [gathered(x, {dim: own for dim, own in kept.items() if dim in reduced}), *args[1:]]


def _rewritten_mean(sizes: Sizes, given: Arguments) -> fx.Node | None:
    """A mean that counts removed units as zeros; None where it counts none of these."""
    x = sizes.input("self")
    dims = dims_of(given.get("dim"), len(x.shape) if x else 0)
    count = sizes.counted("self", dims)
    return None if count is None else counting_mean(sizes.graph, given, dims, count)


def counting_mean(
    graph: fx.Graph, given: Mapping[str, Any], dims: Sequence[int], count: int
) -> fx.Node:
    """Σ x / `count` over `dims`: the mean of as many values, of which some are gone as zeros."""
    named = {} if given.get("dtype") is None else {"dtype": given["dtype"]}
    args = (given["self"], list(dims), given.get("keepdim", False))
    summed = graph.call_function(torch.ops.aten.sum.dim_IntList, args, named)
    return graph.call_function(torch.ops.aten.div.Scalar, (summed, count))


OPERATORS = (
    Operator(
        ("mean",),
        propagate=mean,
        rewrite=_rewritten_mean,
        zeros=of_all_inputs,
        statistic=Statistic(_gather_reduced, reduces=True, counts_removed=True),
    ),
    Operator(("nanmean",), propagate=mean),
    Operator(
        ("std", "std_mean", "var", "var_mean"),
        propagate=mean,
        statistic=Statistic(_gather_reduced, reduces=True),
    ),
    Operator(("linalg_vector_norm", "norm", "sum"), propagate=sum_like, zeros=of_all_inputs),
    Operator(("frobenius_norm", "linalg_norm", "nansum"), propagate=sum_like),
    Operator(
        ("diff", "fft_fft", "fft_fft2", "fft_fftn", "fft_ifft", "fft_ifft2", "fft_ifftn",
         "fft_fftshift", "fft_ifftshift", "fft_irfft", "fft_irfft2", "fft_irfftn", "fft_rfft",
         "fft_rfft2", "fft_rfftn"),
        propagate=over_fixed,
    ),
    Operator(
        ("_log_softmax", "_softmax", "argsort", "cummax", "cummin", "cumprod", "log_softmax",
         "logcumsumexp", "softmax", "sort", "special_log_softmax", "special_softmax", "topk"),
        propagate=over_fixed,
    ),
    Operator(
        ("all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "kthvalue", "logsumexp",
         "max", "median", "min", "mode", "nanmedian", "prod", "special_logsumexp"),
        propagate=reduction,
    ),
    Operator(("cross", "linalg_cross"), propagate=cross),
    Operator(("pairwise_distance",), propagate=pairwise_distance),
)  # fmt: skip
