"""Which values are zero wherever a unit is gone, if all that belongs to the unit is zero.

A norm or mean of such a value can count the units that are gone as the zeros that they are: then
it is what the dense model computes without them, and not an approximation. Knows no groups.
"""

from __future__ import annotations

from collections.abc import Sequence

from search.graph.dependency.labels import Labels
from search.graph.dependency.op_call import OpCall

_MADE = frozenset((
    "addmm", "batch_norm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "convolution", "einsum", "embedding", "linear",
    "matmul", "mm", "scaled_dot_product_attention",
))  # fmt: skip
_NORMS = frozenset(("group_norm", "layer_norm", "rms_norm"))
_KEEPING = frozenset((
    "_to_copy", "_unsafe_view", "abs", "adaptive_avg_pool2d", "adaptive_max_pool2d", "alias",
    "avg_pool2d", "cat", "chunk", "clone", "contiguous", "detach", "dropout", "elu", "expand",
    "feature_dropout", "flatten", "flip", "gelu", "hardswish", "leaky_relu",
    "linalg_vector_norm", "max_pool2d", "mean", "movedim", "narrow", "neg", "norm", "permute",
    "prelu", "relu", "relu6", "reshape", "roll", "silu", "slice", "split", "split_with_sizes",
    "sqrt", "square", "squeeze", "sum", "tanh", "to", "transpose", "unflatten", "unsqueeze",
    "upsample_bilinear2d", "upsample_nearest2d", "view",
))  # fmt: skip
_SUMS = frozenset(("add", "addcmul", "sub"))


def vanishes(call: OpCall, outputs: Sequence[Labels]) -> bool:
    """Whether an operator gives zeros for units that are gone.

    Args:
        call: the operator.
        outputs: what its rule gives.
    """
    inputs = call.inputs
    if not outputs:
        return False
    if call.op in _MADE:
        return True
    if call.op in _NORMS and call.arguments.get("weight") is not None:
        return True
    if not inputs:
        return False
    if call.op in _SUMS:
        number = isinstance(call.arguments.get("other"), int | float)
        return not number and all(x.vanishes and _covers(x, outputs[0]) for x in inputs)
    if call.op == "mul":
        return any(x.vanishes and _covers(x, outputs[0]) for x in inputs)
    if call.op == "div":
        return inputs[0].vanishes and _covers(inputs[0], outputs[0])
    if call.op == "pow":
        exponent = call.arguments.get("exponent")
        return inputs[0].vanishes and isinstance(exponent, int | float) and exponent > 0
    return call.op in (_KEEPING | {"rms_norm"}) and all(x.vanishes for x in inputs)


def _covers(operand: Labels, out: Labels) -> bool:
    """Whether an operand has an entry of its own for every unit of the output."""
    lead = len(out.shape) - len(operand.shape)
    return all(dim >= lead and operand.axes[dim - lead] is not None for dim in out.labelled)
