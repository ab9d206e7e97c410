"""The table of rules, keyed by ATen operator. A new operator is one small function and a line.

Operators that PyTorch tags as pointwise need no line.
"""

from __future__ import annotations

from collections.abc import Mapping

from search.graph.call import Rule
from search.graph.rules import (
    convolution,
    elementwise,
    joining,
    norms,
    pooling,
    reductions,
    shapes,
)

_CONVOLUTIONS: dict[str, Rule] = {
    "addmm": convolution.addmm,
    "bmm": convolution.matmul,
    "conv1d": convolution.convolution,
    "conv2d": convolution.convolution,
    "conv3d": convolution.convolution,
    "conv_transpose1d": convolution.transposed_convolution,
    "conv_transpose2d": convolution.transposed_convolution,
    "conv_transpose3d": convolution.transposed_convolution,
    "convolution": convolution.general_convolution,
    "linear": convolution.linear,
    "matmul": convolution.matmul,
    "mm": convolution.matmul,
}

_SAME: dict[str, Rule] = dict.fromkeys(
    (
        "_to_copy",
        "alias",
        "alpha_dropout",
        "clone",
        "contiguous",
        "cumsum",
        "detach",
        "dropout",
        "empty_like",
        "feature_alpha_dropout",
        "feature_dropout",
        "full_like",
        "lift_fresh_copy",
        "ones_like",
        "rrelu",
        "to",
        "type_as",
        "zeros_like",
    ),
    elementwise.same_axes,
)

_JOINING: dict[str, Rule] = {
    "cat": joining.concatenate,
    "chunk": joining.split,
    "concat": joining.concatenate,
    "concatenate": joining.concatenate,
    "glu": joining.glu,
    "split": joining.split,
    "split_with_sizes": joining.split,
    "stack": joining.stack,
    "tensor_split": joining.split,
    "unbind": joining.unbind,
}

_ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys(("copy", "hardswish", "log_sigmoid", "rsub"), elementwise.elementwise),
    "prelu": elementwise.prelu,
}

_NORMS: dict[str, Rule] = {
    "_native_batch_norm_legit": norms.batch_norm,
    "batch_norm": norms.batch_norm,
    "group_norm": norms.group_norm,
    "instance_norm": norms.batch_norm,
    "layer_norm": norms.layer_norm,
}

_REDUCTIONS: dict[str, Rule] = {
    "mean": reductions.mean,
    **dict.fromkeys(("linalg_vector_norm", "norm", "sum"), reductions.sum_like),
    **dict.fromkeys(("log_softmax", "softmax", "_softmax", "_log_softmax"), reductions.over_fixed),
    **dict.fromkeys(
        ("all", "amax", "amin", "any", "argmax", "argmin", "logsumexp", "max", "min", "prod",
         "std", "var", "std_mean", "var_mean"),
        reductions.reduction,
    ),
}  # fmt: skip

_SHAPES: dict[str, Rule] = {
    **dict.fromkeys(
        ("_unsafe_view", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view",
         "view_as", "reshape_as"),
        shapes.reshape,
    ),
    "channel_shuffle": shapes.channel_shuffle,
    "constant_pad_nd": shapes.pad,
    "expand": shapes.expand,
    "expand_as": shapes.expand_as,
    "flip": shapes.flip,
    "pad": shapes.pad,
    "permute": shapes.permute,
    "pixel_shuffle": shapes.pixel_shuffle,
    "pixel_unshuffle": shapes.pixel_unshuffle,
    "repeat": shapes.repeat,
    "roll": shapes.roll,
    "select": shapes.select,
    "slice": shapes.slicing,
    "swapaxes": shapes.transpose,
    "t": shapes.transpose,
    "transpose": shapes.transpose,
}  # fmt: skip

_SPACE: dict[str, Rule] = {
    f"{op}{rank}d": pooling.over_last(rank)
    for rank in (1, 2, 3)
    for op in (
        "adaptive_avg_pool",
        "adaptive_max_pool",
        "avg_pool",
        "lp_pool",
        "max_pool",
        "reflection_pad",
        "replication_pad",
        "upsample_nearest",
    )
} | {
    "_upsample_bicubic2d_aa": pooling.over_last(2),
    "_upsample_bilinear2d_aa": pooling.over_last(2),
    "_upsample_nearest_exact1d": pooling.over_last(1),
    "_upsample_nearest_exact2d": pooling.over_last(2),
    "_upsample_nearest_exact3d": pooling.over_last(3),
    "max_pool1d_with_indices": pooling.over_last(1),
    "max_pool2d_with_indices": pooling.over_last(2),
    "max_pool3d_with_indices": pooling.over_last(3),
    "upsample_bicubic2d": pooling.over_last(2),
    "upsample_bilinear2d": pooling.over_last(2),
    "upsample_linear1d": pooling.over_last(1),
    "upsample_trilinear3d": pooling.over_last(3),
}

RULES: Mapping[str, Rule] = {
    **_CONVOLUTIONS,
    **_ELEMENTWISE,
    **_JOINING,
    **_NORMS,
    **_REDUCTIONS,
    **_SAME,
    **_SHAPES,
    **_SPACE,
}

POINTWISE: Rule = elementwise.elementwise
