"""Operators on space: pooling and resizing leave the channels as they are."""

from __future__ import annotations

from search.graph.dependency.labels import freeze, total
from search.graph.dependency.op_call import OpCall, Outcome, PropagationRule
from search.graph.dependency.operators.operator import Operator, of_all_inputs


def over_last(count: int) -> PropagationRule:
    """The rule of an operator that works on the last `count` dimensions, whole or by windows."""

    def rule(call: OpCall) -> Outcome:
        x = call.first
        effect = total(freeze(axis, f"{call.op} runs over its units") for axis in x.axes[-count:])
        return call.give((*x.axes[:-count], *(None,) * count), effect)

    return rule


OPERATORS = (
    Operator(
        ("adaptive_avg_pool1d", "adaptive_max_pool1d", "avg_pool1d", "max_pool1d",
         "upsample_nearest1d", "_upsample_nearest_exact1d", "max_pool1d_with_indices",
         "upsample_linear1d"),
        propagate=over_last(1),
    ),
    Operator(
        ("adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d",
         "upsample_bilinear2d", "upsample_nearest2d"),
        propagate=over_last(2),
        zeros=of_all_inputs,
    ),
    Operator(
        ("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "_upsample_nearest_exact2d",
         "max_pool2d_with_indices", "max_unpool2d", "upsample_bicubic2d"),
        propagate=over_last(2),
    ),
    Operator(
        ("adaptive_avg_pool3d", "adaptive_max_pool3d", "avg_pool3d", "max_pool3d",
         "upsample_nearest3d", "_upsample_nearest_exact3d", "max_pool3d_with_indices",
         "max_unpool3d", "upsample_trilinear3d"),
        propagate=over_last(3),
    ),
    Operator(("tril", "triu"), propagate=over_last(2)),  # the last two dimensions are a matrix
)  # fmt: skip
