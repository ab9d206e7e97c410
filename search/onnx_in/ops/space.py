"""Operators that slide over space: pools, and convolutions whose weights are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search.errors import OnnxError
from search.onnx_in.values import NodeCall, Op, Value

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
MAX_POOLS: tuple[Callable[..., Any], ...] = (
    functional.max_pool1d,
    functional.max_pool2d,
    functional.max_pool3d,
)
AVERAGE_POOLS: tuple[Callable[..., Any], ...] = (
    functional.avg_pool1d,
    functional.avg_pool2d,
    functional.avg_pool3d,
)


def spatial(attributes: Any, name: str, rank: int, default: int) -> tuple[int, ...]:
    """One number per spatial dimension."""
    entries = tuple(attributes.get(name, ())) or (default,) * rank
    if len(entries) != rank:
        raise OnnxError(f"{name} must have {rank} entries, but got {list(entries)}")
    return entries


def paddings(
    attributes: Any,
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Padding before and after every spatial dimension; `auto_pad` needs the sizes."""
    rank, auto = len(kernel), attributes.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = spatial(attributes, "pads", 2 * rank, 0)
        return list(pads[:rank]), list(pads[rank:])
    if auto == "VALID":
        return [0] * rank, [0] * rank
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise OnnxError(f"auto_pad must be NOTSET, VALID or SAME, but got {auto!r}")
    wanted = [
        max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    less, more = [pad // 2 for pad in wanted], [pad - pad // 2 for pad in wanted]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` padded in its last dimensions."""
    flat = [pad for pair in zip(reversed(before), reversed(after), strict=True) for pad in pair]
    return functional.pad(x, flat, "constant", value) if any(flat) else x


def convolution(call: NodeCall) -> Value:
    """A convolution whose weight is computed by the graph; constant weights become modules."""
    x, weight = call.tensor(0), call.tensor(1)
    rank = weight.ndim - 2
    stride = spatial(call.attributes, "strides", rank, 1)
    dilation = spatial(call.attributes, "dilations", rank, 1)
    before, after = paddings(call.attributes, x.shape[2:], weight.shape[2:], stride, dilation)
    bias = call.tensor(2) if call.has(2) else None
    result: Tensor = CONVOLUTIONS[rank - 1](
        padded(x, before, after), weight, bias, stride, 0, dilation,
        call.attributes.get("group", 1),
    )  # fmt: skip
    return result


def max_pool(call: NodeCall) -> Value:
    """The largest entry of every window; padding never wins."""
    if call.outputs > 1 or call.attributes.get("storage_order", 0):
        raise OnnxError("the indices of a MaxPool are not computed")
    x = call.tensor(0)
    kernel = tuple(call.attributes["kernel_shape"])
    rank = len(kernel)
    stride = spatial(call.attributes, "strides", rank, 1)
    dilation = spatial(call.attributes, "dilations", rank, 1)
    before, after = paddings(call.attributes, x.shape[2:], kernel, stride, dilation)
    if before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        padding = tuple(before)
    else:
        x, padding = padded(x, before, after, float("-inf")), (0,) * rank
    result: Tensor = MAX_POOLS[rank - 1](
        x, kernel, stride, padding, dilation, bool(call.attributes.get("ceil_mode", 0))
    )
    return result


def average_pool(call: NodeCall) -> Value:
    """The mean of every window; padding counts only with `count_include_pad`."""
    x = call.tensor(0)
    kernel = tuple(call.attributes["kernel_shape"])
    rank = len(kernel)
    if any(step != 1 for step in call.attributes.get("dilations", ())):
        raise OnnxError("dilations of an AveragePool must be 1")
    stride = spatial(call.attributes, "strides", rank, 1)
    before, after = paddings(call.attributes, x.shape[2:], kernel, stride, (1,) * rank)
    ceil = bool(call.attributes.get("ceil_mode", 0))
    counted = bool(call.attributes.get("count_include_pad", 0))
    pool = AVERAGE_POOLS[rank - 1]
    if before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        result: Tensor = pool(x, kernel, stride, tuple(before), ceil, counted)
        return result
    summed: Tensor = pool(padded(x, before, after), kernel, stride, 0, ceil)
    if counted:
        return summed
    inside = padded(torch.ones_like(x[:1, :1]), before, after)
    counts: Tensor = pool(inside, kernel, stride, 0, ceil)
    return summed / counts


def global_average_pool(call: NodeCall) -> Value:
    x = call.tensor(0)
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max_pool(call: NodeCall) -> Value:
    x = call.tensor(0)
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def local_response_norm(call: NodeCall) -> Value:
    """x / (bias + α / size · Σ x²)^β over neighbouring channels (AlexNet)."""
    settings = call.attributes
    return functional.local_response_norm(
        call.tensor(0),
        settings["size"],
        settings.get("alpha", 1e-4),
        settings.get("beta", 0.75),
        settings.get("bias", 1.0),
    )


def grid_sample(call: NodeCall) -> Value:
    """Space read at the points of a grid, which are in [−1, 1]."""
    names = {"linear": "bilinear", "cubic": "bicubic"}
    mode = call.attributes.get("mode", "linear")
    return functional.grid_sample(
        call.tensor(0),
        call.tensor(1),
        names.get(mode, mode),
        call.attributes.get("padding_mode", "zeros"),
        bool(call.attributes.get("align_corners", 0)),
    )


SPACE: dict[str, Op] = {
    "AveragePool": average_pool,
    "Conv": convolution,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "GridSample": grid_sample,
    "LRN": local_response_norm,
    "MaxPool": max_pool,
}
