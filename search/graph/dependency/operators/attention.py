"""Attention as one operator: heads run in parallel, a softmax runs over the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from search.graph.dependency.labels import FIXED, Effect, Labels, freeze, meet, tie, total
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.elementwise import aligned
from search.graph.dependency.operators.operator import (
    Arguments,
    Operands,
    Operator,
    SizedAxis,
    Sizes,
    always,
    sized,
)
from search.graph.dependency.operators.products import from_last, parallel

SOFTMAX = "attention takes a softmax over its units"


def attention(call: OpCall) -> Outcome:
    """softmax(query (…, L, E) · key (…, S, E)ᵀ · scale + mask (…, L, S)) · value (…, S, V).

    The scale is 1 / √E if none is given.
    """
    query, key, value = call["query"], call["key"], call["value"]
    if call.arguments.get("enable_gqa", False):
        key, value = (_shared(labels, query) for labels in (key, value))
    inner = query.axis(-1)
    effect = tie(inner, key.axis(-1))
    if inner is not None and call.arguments.get("scale") is None:
        effect += Effect(numbered=(inner[inner != FIXED],))
    effect += freeze(key.axis(-2), SOFTMAX) + freeze(value.axis(-2), SOFTMAX)
    batches, together = parallel((query, key, value))
    tokens = query.axis(-2)
    mask = call.arguments.get("attn_mask")
    if call.arguments.get("is_causal", False):
        tokens, effect = None, effect + freeze(tokens, SOFTMAX)
    if mask is not None:
        effect += freeze(mask.axis(-1), SOFTMAX)
        met = [meet([axis, *aligned(mask, dim - 2)]) for dim, axis in from_last(batches)]
        batches = [axis for axis, _ in met]
        tokens, own = meet([tokens, *aligned(mask, -2)])
        effect += own + total(meeting for _, meeting in met)
    return call.give((*batches, tokens, value.axis(-1)), effect + together)


def _shared(labels: Labels, query: Labels) -> Labels:
    """Keys or values that several query heads in a row share."""
    times = query.shape[-3] // labels.shape[-3]
    axis = labels.axis(-3)
    wide = None if axis is None else np.repeat(axis, times)
    shape = (*labels.shape[:-3], query.shape[-3], *labels.shape[-2:])
    return replace(labels, shape=shape, axes=(*labels.axes[:-3], wide, *labels.axes[-2:]))


def _dense_scale(sizes: Sizes, given: Arguments) -> Arguments | None:
    """The dense scale stays: it divides by the width that the heads once had.

    It is written down whenever the heads may shrink, so that all plans give the same operators.
    """
    query = sizes.input("query")
    if query is None or given.get("scale") is not None or query.axis(-1) is None:
        return None
    return given | {"scale": query.shape[-1] ** -0.5}


def _macs(operands: Operands, out: Labels) -> Iterator[Sequence[SizedAxis]]:
    """Queries by keys, then weights by values."""
    positions = sized(operands["key"])[-2]
    yield [*sized(operands["query"]), positions]
    yield [*sized(out), positions]


ATTENTION = "scaled_dot_product_attention"

OPERATORS = (
    Operator((ATTENTION,), propagate=attention, rewrite=_dense_scale, macs=_macs, zeros=always),
    Operator(
        (
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
        ),
        macs=_macs,
    ),
)
