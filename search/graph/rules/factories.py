"""Tensors made from nothing."""

from __future__ import annotations

from search.graph.call import Call, Outcome
from search.graph.exporting import BATCH
from search.graph.labels import free


def uniform(call: Call) -> Outcome:
    """Zeros, ones: equal everywhere, so of any length; but the batch alone stays the batch."""
    out = call.out
    alone = {dim for dim in out.batch if out.shape[dim] == BATCH}
    return call.give([None if d in alone else free(n) for d, n in enumerate(out.shape)])


def like(call: Call) -> Outcome:
    """As long as the operand, which shrinks."""
    return call.give(call.first.axes)
