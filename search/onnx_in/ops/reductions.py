"""Operators that sum up one or more dimensions, and products of matrices."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from search.errors import OnnxError
from search.onnx_in.values import NodeCall, Op, Value, axis_of, numbers

OnTensor = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def reduction(
    on_tensor: OnTensor, on_numbers: Callable[[Sequence[Any]], Any], *, since: int = 18
) -> Op:
    """Over the given axes, or over all; the axes are an input from opset `since` on."""

    def op(call: NodeCall) -> Value:
        x, axes = call.value(0), call.given(1, "axes", since)
        keep = bool(call.attributes.get("keepdims", 1))
        if not axes and call.attributes.get("noop_with_empty_axes", 0):
            return x
        if isinstance(x, Tensor):
            dims = tuple(axis_of(axis, x.ndim) for axis in axes or range(x.ndim))
            return on_tensor(x, dims, keep)
        if x.ndim > 1:
            raise OnnxError("numbers that are reduced must have one dimension")
        result = on_numbers(list(x.flat))
        return numbers([result] if keep and x.ndim else result)

    return op


def _prod(x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = torch.prod(x, dim, keep)
    return x


def arg(pick: Callable[..., Tensor]) -> Op:
    """The place of the largest or smallest entry along an axis, the first of equals."""

    def op(call: NodeCall) -> Value:
        x = call.tensor(0)
        if call.attributes.get("select_last_index", 0):
            raise OnnxError("select_last_index must be 0")
        axis = axis_of(call.attributes.get("axis", 0), x.ndim)
        return pick(x, axis, bool(call.attributes.get("keepdims", 1)))

    return op


def top_k(call: NodeCall) -> tuple[Value, ...]:
    x = call.tensor(0)
    return tuple(
        torch.topk(
            x,
            call.number(1) if call.opset >= 10 else call.attributes["k"],
            axis_of(call.attributes.get("axis", -1), x.ndim),
            largest=bool(call.attributes.get("largest", 1)),
            sorted=bool(call.attributes.get("sorted", 1)),
        )
    )


def cumulative_sum(call: NodeCall) -> Value:
    """Along an axis, from its end with `reverse`, without the entry itself with `exclusive`."""
    x = call.tensor(0)
    axis = axis_of(call.number(1), x.ndim)
    turned = x.flip(axis) if call.attributes.get("reverse", 0) else x
    summed = torch.cumsum(turned, axis)
    if call.attributes.get("exclusive", 0):
        summed = summed - turned
    return summed.flip(axis) if call.attributes.get("reverse", 0) else summed


def matmul(call: NodeCall) -> Value:
    return torch.matmul(call.tensor(0), call.tensor(1))


def gemm(call: NodeCall) -> Value:
    """α A B + β C, with A or B transposed first."""
    a, b = call.tensor(0), call.tensor(1)
    a = a.t() if call.attributes.get("transA", 0) else a
    b = b.t() if call.attributes.get("transB", 0) else b
    product = _scaled(torch.matmul(a, b), call.attributes.get("alpha", 1.0))
    if not call.has(2):
        return product
    return product + _scaled(call.tensor(2), call.attributes.get("beta", 1.0))


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1.0 else x * factor


def einsum(call: NodeCall) -> Value:
    tensors = [call.tensor(place) for place in range(len(call.inputs))]
    return torch.einsum(call.attributes["equation"], *tensors)


def lp_normalization(call: NodeCall) -> Value:
    """x by its norm along an axis."""
    x = call.tensor(0)
    axis = axis_of(call.attributes.get("axis", -1), x.ndim)
    norm = torch.linalg.vector_norm(x, call.attributes.get("p", 2), axis, keepdim=True)
    return torch.div(x, norm)


REDUCTIONS: dict[str, Op] = {
    "ArgMax": arg(torch.argmax),
    "ArgMin": arg(torch.argmin),
    "CumSum": cumulative_sum,
    "Einsum": einsum,
    "Gemm": gemm,
    "LpNormalization": lp_normalization,
    "MatMul": matmul,
    "ReduceL1": reduction(lambda x, d, k: x.abs().sum(d, k), lambda n: sum(map(abs, n))),
    "ReduceL2": reduction(
        lambda x, d, k: torch.linalg.vector_norm(x, 2, d, k), lambda n: math.hypot(*n)
    ),
    "ReduceLogSumExp": reduction(
        lambda x, d, k: torch.logsumexp(x, d, k), lambda n: math.log(sum(map(math.exp, n)))
    ),
    "ReduceMax": reduction(lambda x, d, k: torch.amax(x, d, k), max),
    "ReduceMean": reduction(lambda x, d, k: x.mean(d, k), lambda n: sum(n) / len(n)),
    "ReduceMin": reduction(lambda x, d, k: torch.amin(x, d, k), min),
    "ReduceProd": reduction(_prod, lambda n: functools.reduce(operator.mul, n, 1)),
    "ReduceSum": reduction(lambda x, d, k: x.sum(d, k), sum, since=13),
    "ReduceSumSquare": reduction(
        lambda x, d, k: (x * x).sum(d, k), lambda n: sum(x * x for x in n)
    ),
    "TopK": top_k,
}
