"""The table of rules, keyed by ATen operator. A new operator is one small function and a line.

Operators that PyTorch tags as pointwise need no line.
"""

from __future__ import annotations

from collections.abc import Mapping

from search.graph.dependency.op_call import PropagationRule
from search.graph.dependency.operators import (
    convolution,
    elementwise,
    factories,
    indexing,
    joining,
    moving,
    norms,
    pooling,
    products,
    recurrent,
    reductions,
    shapes,
    windows,
)

_CONVOLUTIONS: dict[str, PropagationRule] = {
    "conv1d": convolution.convolution,
    "conv2d": convolution.convolution,
    "conv3d": convolution.convolution,
    "conv_transpose1d": convolution.transposed_convolution,
    "conv_transpose2d": convolution.transposed_convolution,
    "conv_transpose3d": convolution.transposed_convolution,
    "convolution": convolution.general_convolution,
}

_PRODUCTS: dict[str, PropagationRule] = {
    **dict.fromkeys(("addmm", "addmv", "baddbmm"), products.add_product),
    **dict.fromkeys(("bmm", "dot", "matmul", "mm", "mv", "vdot"), products.matmul),
    "bilinear": products.bilinear,
    "cdist": products.distances,
    "cosine_similarity": products.cosine_similarity,
    "einsum": products.einsum,
    "inner": products.inner,
    "linear": products.linear,
    "outer": products.outer,
    "scaled_dot_product_attention": products.attention,
    "tensordot": products.tensordot,
}

_RECURRENT: dict[str, PropagationRule] = {
    **dict.fromkeys(("gru", "lstm", "rnn_relu", "rnn_tanh"), recurrent.recurrent),
    **dict.fromkeys(("gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"), recurrent.cell),
}

_FACTORIES: dict[str, PropagationRule] = {
    **dict.fromkeys(
        ("empty", "full", "new_empty", "new_full", "new_ones", "new_zeros", "ones", "zeros"),
        factories.uniform,
    ),
    **dict.fromkeys(
        ("empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like"),
        factories.like,
    ),
}

_SAME: dict[str, PropagationRule] = dict.fromkeys(
    ("_to_copy", "alias", "alpha_dropout", "bernoulli", "clone", "contiguous", "cumsum", "detach",
     "dropout", "feature_alpha_dropout", "feature_dropout", "fill", "lift_fresh_copy", "rrelu",
      "to", "type_as", "zero"),
    elementwise.same_axes,
)  # fmt: skip

_JOINING: dict[str, PropagationRule] = {
    **dict.fromkeys(("cat", "concat", "concatenate"), joining.concatenate),
    **dict.fromkeys(("column_stack", "hstack"), joining.concatenate_along(1)),
    **dict.fromkeys(("row_stack", "vstack"), joining.concatenate_along(0)),
    **dict.fromkeys(
        ("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split",
         "unsafe_split_with_sizes"),
        joining.split,
    ),
    "dsplit": joining.split_along(2),
    "dstack": joining.concatenate_along(2),
    "glu": joining.glu,
    "hsplit": joining.split_along(1),
    "stack": joining.stack,
    "unbind": joining.unbind,
    "vsplit": joining.split_along(0),
}  # fmt: skip

_INDEXING: dict[str, PropagationRule] = {
    **dict.fromkeys(("_unsafe_index", "index"), indexing.index),
    **dict.fromkeys(("gather", "take_along_dim"), indexing.gather),
    **dict.fromkeys(
        ("index_add", "index_copy", "index_fill", "index_reduce", "scatter", "scatter_add",
         "scatter_reduce"),
        indexing.write,
    ),
    "embedding": indexing.embedding,
    "embedding_bag": indexing.embedding_bag,
    "index_put": indexing.put,
    "index_select": indexing.index_select,
    "narrow": indexing.slicing,
    "select": indexing.select,
    "slice": indexing.slicing,
}  # fmt: skip

_ELEMENTWISE: dict[str, PropagationRule] = {
    **dict.fromkeys(
        (
            "__and__",
            "__or__",
            "__xor__",
            "_conj",
            "absolute",
            "arccos",
            "arcsin",
            "arctan",
            "arctan2",
            "clip",
            "complex",
            "copy",
            "divide",
            "fix",
            "floor_divide",
            "greater",
            "greater_equal",
            "hardswish",
            "imag",
            "isclose",
            "less",
            "less_equal",
            "log_sigmoid",
            "multiply",
            "negative",
            "not_equal",
            "polar",
            "real",
            "resolve_conj",
            "resolve_neg",
            "rsub",
            "subtract",
            "true_divide",
            "where",
        ),
        elementwise.elementwise,
    ),
    "prelu": elementwise.prelu,
}

_SPECIAL: dict[str, PropagationRule] = {
    f"special_{name}": elementwise.elementwise
    for name in (
        "digamma", "erf", "erfc", "erfinv", "exp2", "expit", "expm1", "gammainc", "gammaincc",
        "gammaln", "i0", "log1p", "logit", "multigammaln", "ndtr", "polygamma", "psi", "round",
        "sinc", "xlogy",
    )
}  # fmt: skip

_NORMS: dict[str, PropagationRule] = {
    **dict.fromkeys(("batch_norm", "instance_norm"), norms.batch_norm),
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), norms.weight_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), norms.layer_norm),
    "group_norm": norms.group_norm,
}

_REDUCTIONS: dict[str, PropagationRule] = {
    **dict.fromkeys(
        ("diff", "fft_fft", "fft_fft2", "fft_fftn", "fft_ifft", "fft_ifft2", "fft_ifftn",
         "fft_fftshift", "fft_ifftshift", "fft_irfft", "fft_irfft2", "fft_irfftn", "fft_rfft",
         "fft_rfft2", "fft_rfftn"),
        reductions.over_fixed,
    ),
    **dict.fromkeys(("cross", "linalg_cross"), reductions.cross),
    **dict.fromkeys(("mean", "nanmean", "std", "std_mean", "var", "var_mean"), reductions.mean),
    **dict.fromkeys(
        ("frobenius_norm", "linalg_norm", "linalg_vector_norm", "nansum", "norm", "sum"),
        reductions.sum_like,
    ),
    **dict.fromkeys(
        ("_log_softmax", "_softmax", "argsort", "cummax", "cummin", "cumprod", "log_softmax",
         "logcumsumexp", "softmax", "sort", "special_log_softmax", "special_softmax", "topk"),
        reductions.over_fixed,
    ),
    **dict.fromkeys(
        ("all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "kthvalue", "logsumexp",
         "max", "median", "min", "mode", "nanmedian", "prod", "special_logsumexp"),
        reductions.reduction,
    ),
    "pairwise_distance": reductions.pairwise_distance,
}  # fmt: skip

_SHAPES: dict[str, PropagationRule] = {
    **dict.fromkeys(
        ("_unsafe_view", "atleast_1d", "atleast_2d", "atleast_3d", "flatten", "ravel", "reshape",
         "reshape_as", "squeeze", "unflatten", "unsqueeze", "view", "view_as"),
        shapes.reshape,
    ),
    "view_as_complex": shapes.to_complex,
    "view_as_real": shapes.from_complex,
}  # fmt: skip

_MOVING: dict[str, PropagationRule] = {
    **dict.fromkeys(
        ("adjoint", "mH", "mT", "swapaxes", "swapdims", "t", "transpose"), moving.transpose
    ),
    **dict.fromkeys(("flip", "fliplr", "flipud"), moving.flip),
    **dict.fromkeys(("matrix_H", "numpy_T"), moving.reverse),
    **dict.fromkeys(("broadcast_to", "expand"), moving.expand),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), moving.channel_shuffle),
    **dict.fromkeys(("constant_pad_nd", "pad"), moving.pad),
    **dict.fromkeys(("movedim", "moveaxis"), moving.movedim),
    **dict.fromkeys(("repeat", "tile"), moving.repeat),
    **dict.fromkeys(("tril", "triu"), pooling.over_last(2)),
    "broadcast_tensors": moving.broadcast,
    "expand_as": moving.expand_as,
    "permute": moving.permute,
    "pixel_shuffle": moving.pixel_shuffle,
    "pixel_unshuffle": moving.pixel_unshuffle,
    "repeat_interleave": moving.repeat_interleave,
    "roll": moving.roll,
    "rot90": moving.rot90,
}

_WINDOWS: dict[str, PropagationRule] = {
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), windows.sampled),
    "col2im": windows.from_columns,
    "im2col": windows.to_columns,
    "unfold": windows.sliding,
}

_SPACE: dict[str, PropagationRule] = {
    f"{op}{rank}d": pooling.over_last(rank)
    for rank in (1, 2, 3)
    for op in (
        "adaptive_avg_pool",
        "adaptive_max_pool",
        "avg_pool",
        "max_pool",
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
    "max_unpool2d": pooling.over_last(2),
    "max_unpool3d": pooling.over_last(3),
    "upsample_bicubic2d": pooling.over_last(2),
    "upsample_bilinear2d": pooling.over_last(2),
    "upsample_linear1d": pooling.over_last(1),
    "upsample_trilinear3d": pooling.over_last(3),
}

RULES: Mapping[str, PropagationRule] = {
    **_CONVOLUTIONS,
    **_ELEMENTWISE,
    **_FACTORIES,
    **_INDEXING,
    **_JOINING,
    **_MOVING,
    **_NORMS,
    **_PRODUCTS,
    **_RECURRENT,
    **_REDUCTIONS,
    **_SAME,
    **_SHAPES,
    **_SPACE,
    **_SPECIAL,
    **_WINDOWS,
}

POINTWISE: PropagationRule = elementwise.elementwise
