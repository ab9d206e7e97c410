"""Tensors made from nothing."""

from __future__ import annotations

from search.graph.dependency.labels import free
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.operator import Operator, by_output
from search.graph.exported.export import BATCH


def uniform(call: OpCall) -> Outcome:
    """Zeros, ones: equal everywhere, so of any length; but the batch alone stays the batch."""
    out = call.out
    alone = {dim for dim in out.batch if out.shape[dim] == BATCH}
    return call.give([None if d in alone else free(n) for d, n in enumerate(out.shape)])


def like(call: OpCall) -> Outcome:
    """As long as the operand, which shrinks."""
    return call.give(call.first.axes)


OPERATORS = (
    Operator(
        ("empty", "full", "new_empty", "new_full", "new_ones", "new_zeros", "ones", "zeros"),
        propagate=uniform,
        rewrite=by_output("size"),
    ),
    Operator(("rand", "randn"), rewrite=by_output("size")),
    Operator(
        ("empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like"),
        propagate=like,
    ),
)
