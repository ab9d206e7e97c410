"""Operators that work index by index, and those that join two operands by broadcasting."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search.errors import OnnxError
from search.onnx_in.values import NodeCall, Op, Value, each, numbers


def unary(on_tensor: Callable[[Tensor], Tensor], on_number: Callable[[Any], Any]) -> Op:
    """An operator of one operand."""

    def op(call: NodeCall) -> Value:
        if call.on_numbers:
            return each(on_number, call.numbers(0))
        return on_tensor(call.tensor(0))

    return op


def binary(
    on_tensors: Callable[[Any, Any], Tensor],
    on_numbers: Callable[[Any, Any], Any],
    *,
    tensors_only: bool = False,
) -> Op:
    """An operator of two operands; Python numbers stay such unless `tensors_only`."""

    def op(call: NodeCall) -> Value:
        if call.on_numbers:
            return each(on_numbers, call.numbers(0), call.numbers(1))
        a, b = (call.tensor(0), call.tensor(1)) if tensors_only else call.operands()
        return on_tensors(a, b)

    return op


def variadic(join: Callable[[Any, Any], Any], *, mean: bool = False) -> Op:
    """Sum, Mean, Max and Min of any number of operands."""

    def op(call: NodeCall) -> Value:
        if call.on_numbers:
            total: Value = each(
                lambda *row: functools.reduce(join, row),
                *(call.numbers(place) for place in range(len(call.inputs))),
            )
        else:
            tensors = [call.tensor(place) for place in range(len(call.inputs))]
            total = functools.reduce(join, tensors)
        return total / len(call.inputs) if mean else total

    return op


def larger(a: Any, b: Any) -> Any:
    """The elementwise maximum of tensors, or of two numbers."""
    return torch.maximum(a, b) if isinstance(a, Tensor) else max(a, b)


def smaller(a: Any, b: Any) -> Any:
    """The elementwise minimum of tensors, or of two numbers."""
    return torch.minimum(a, b) if isinstance(a, Tensor) else min(a, b)


def divided(a: Any, b: Any) -> Any:
    """Tensors divided; integers towards zero."""
    whole = all(not torch.is_floating_point(x) for x in (a, b) if isinstance(x, Tensor))
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def divided_numbers(a: Any, b: Any) -> Any:
    """Numbers divided; integers towards zero."""
    if isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat):
        return a / b
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a // b


def power(a: Any, b: Any) -> Any:
    return torch.pow(a, b) if isinstance(a, Tensor) or isinstance(b, Tensor) else a**b


def remainder(call: NodeCall) -> Value:
    """Mod: the sign of the divisor, or with `fmod` that of the dividend."""
    by_dividend = bool(call.attributes.get("fmod", 0))
    if call.on_numbers:
        pick = math.fmod if by_dividend else operator.mod
        return each(pick, call.numbers(0), call.numbers(1))
    a, b = call.tensor(0), call.tensor(1)
    return torch.fmod(a, b) if by_dividend else torch.remainder(a, b)


def clip(call: NodeCall) -> Value:
    """Bounds as inputs, before opset 11 as attributes; each may be left out."""
    bounds: list[Value | None] = [
        call.value(place) if call.has(place) else None for place in (1, 2)
    ]
    if call.opset < 11:
        given = (call.attributes.get(name) for name in ("min", "max"))
        bounds = [None if bound is None else numbers(bound) for bound in given]
    if call.on_numbers:
        low, high = (None if b is None else b.item() for b in bounds)
        return each(lambda x: _bounded(x, low, high), call.numbers(0))
    low, high = (
        bound if bound is None or isinstance(bound, Tensor) else bound.item() for bound in bounds
    )
    x = call.tensor(0)
    if (low, high) == (0.0, 6.0):
        return functional.relu6(x)
    return x if low is None and high is None else torch.clamp(x, low, high)


def _bounded(x: Any, low: Any, high: Any) -> Any:
    x = x if low is None else max(x, low)
    return x if high is None else min(x, high)


def where(call: NodeCall) -> Value:
    """a where the condition holds, else b."""
    if call.on_numbers:
        parts = (call.numbers(place) for place in range(3))
        return each(lambda c, a, b: a if bool(c) else b, *parts)
    condition, (a, b) = call.tensor(0), (_scalar(call, place) for place in (1, 2))
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = call.tensor(1)
    return torch.where(condition, a, b)


def _scalar(call: NodeCall, place: int) -> Any:
    value = call.value(place)
    single = not isinstance(value, Tensor) and value.size == 1 and value.ndim <= 1
    return value.item() if single else call.as_tensor(value)


def cast(call: NodeCall) -> Value:
    """All floats are the model's own, which is wider where the file says float16."""
    to = call.attributes.get("to", 1)
    if to in FLOATS:
        if call.on_numbers:
            return each(_as_float, call.numbers(0))
        x = call.tensor(0)
        return x if x.is_floating_point() else x.to(call.dtype)
    if to not in INTEGERS:
        raise OnnxError("a Cast must be to float32, an integer or bool, but is to another type")
    kind, on_number = INTEGERS[to]
    if call.on_numbers:
        return each(on_number, call.numbers(0))
    return call.tensor(0).to(kind)


def cast_like(call: NodeCall) -> Value:
    """To the type of another value."""
    like = call.value(1)
    if isinstance(like, Tensor):
        floats, kind = like.is_floating_point(), like.dtype
    else:
        sample = next(iter(like.flat), 0)
        floats, kind = isinstance(sample, float), torch.int64
    if floats:
        return cast(replace(call, inputs=call.inputs[:1], attributes={"to": 1}))
    to = next(number for number, (dtype, _) in INTEGERS.items() if dtype == kind)
    return cast(replace(call, inputs=call.inputs[:1], attributes={"to": to}))


def _as_float(x: Any) -> Any:
    return torch.sym_float(x) if isinstance(x, torch.SymInt) else float(x)


def _as_int(x: Any) -> Any:
    return torch.sym_int(x) if isinstance(x, torch.SymInt | torch.SymFloat) else int(x)


FLOATS = (1, 10, 11)
INTEGERS: dict[int, tuple[torch.dtype, Callable[[Any], Any]]] = {
    2: (torch.uint8, _as_int),
    3: (torch.int8, _as_int),
    6: (torch.int32, _as_int),
    7: (torch.int64, _as_int),
    9: (torch.bool, bool),
}


def leaky_relu(call: NodeCall) -> Value:
    return functional.leaky_relu(call.tensor(0), call.attributes.get("alpha", 0.01))


def elu(call: NodeCall) -> Value:
    return functional.elu(call.tensor(0), call.attributes.get("alpha", 1.0))


def celu(call: NodeCall) -> Value:
    return functional.celu(call.tensor(0), call.attributes.get("alpha", 1.0))


def selu(call: NodeCall) -> Value:
    """γ (max(x, 0) + min(α (eˣ − 1), 0)), with the constants of the node."""
    alpha: float = call.attributes.get("alpha", 1.67326319217681884765625)
    gamma: float = call.attributes.get("gamma", 1.05070102214813232421875)
    return functional.elu(call.tensor(0), alpha) * gamma


def hard_sigmoid(call: NodeCall) -> Value:
    """max(0, min(1, α x + β))."""
    alpha, beta = call.attributes.get("alpha", 0.2), call.attributes.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid(call.tensor(0))
    return torch.clamp(call.tensor(0) * alpha + beta, 0.0, 1.0)


def thresholded_relu(call: NodeCall) -> Value:
    """x where x > α, else 0."""
    return functional.threshold(call.tensor(0), call.attributes.get("alpha", 1.0), 0.0)


def swish(call: NodeCall) -> Value:
    """x σ(α x)."""
    x, alpha = call.tensor(0), call.attributes.get("alpha", 1.0)
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def gelu(call: NodeCall) -> Value:
    return functional.gelu(call.tensor(0), approximate=call.attributes.get("approximate", "none"))


def prelu(call: NodeCall) -> Value:
    """x where x ≥ 0, else slope · x; the slope broadcasts from the right."""
    x, (_, slope) = call.tensor(0), call.operands()
    return torch.where(x < 0, x * slope, x)


def softmax(on_axis: Callable[[Tensor, int], Tensor]) -> Op:
    """Along an axis; before opset 13 over that axis and all behind it."""

    def op(call: NodeCall) -> Value:
        x = call.tensor(0)
        axis = call.attributes.get("axis", 1 if call.opset < 13 else -1) % x.ndim
        if call.opset >= 13 or all(size == 1 for size in x.shape[axis + 1 :]):
            return on_axis(x, axis)
        return on_axis(x.flatten(axis), axis).reshape(x.shape)

    return op


def identity(call: NodeCall) -> Value:
    return call.value(0)


def constant(call: NodeCall) -> Value:
    """Its value as numbers, or the tensor of its attribute."""
    for name in ("value_int", "value_float", "value_ints", "value_floats"):
        if name in call.attributes:
            return numbers(call.attributes[name])
    value = call.attributes.get("value")
    if not isinstance(value, Tensor):
        raise OnnxError("a Constant must hold a tensor or numbers")
    return value


ELEMENTWISE: dict[str, Op] = {
    "Abs": unary(torch.abs, abs),
    "Acos": unary(torch.acos, math.acos),
    "Add": binary(operator.add, operator.add),
    "And": binary(torch.logical_and, lambda a, b: bool(a) and bool(b), tensors_only=True),
    "Asin": unary(torch.asin, math.asin),
    "Atan": unary(torch.atan, math.atan),
    "Cast": cast,
    "CastLike": cast_like,
    "Ceil": unary(torch.ceil, lambda x: _as_float(math.ceil(x))),
    "Celu": celu,
    "Clip": clip,
    "Constant": constant,
    "Cos": unary(torch.cos, math.cos),
    "Cosh": unary(torch.cosh, math.cosh),
    "Div": binary(divided, divided_numbers),
    "Dropout": identity,
    "Elu": elu,
    "Equal": binary(torch.eq, lambda a, b: bool(a == b), tensors_only=True),
    "Erf": unary(torch.erf, math.erf),
    "Exp": unary(torch.exp, math.exp),
    "Floor": unary(torch.floor, lambda x: _as_float(math.floor(x))),
    "Gelu": gelu,
    "Greater": binary(operator.gt, lambda a, b: bool(a > b)),
    "GreaterOrEqual": binary(operator.ge, lambda a, b: bool(a >= b)),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": unary(functional.hardswish, lambda x: x * min(max(x / 6 + 0.5, 0.0), 1.0)),
    "Identity": identity,
    "IsNaN": unary(torch.isnan, math.isnan),
    "LeakyRelu": leaky_relu,
    "Less": binary(operator.lt, lambda a, b: bool(a < b)),
    "LessOrEqual": binary(operator.le, lambda a, b: bool(a <= b)),
    "Log": unary(torch.log, math.log),
    "LogSoftmax": softmax(functional.log_softmax),
    "Max": variadic(larger),
    "Mean": variadic(operator.add, mean=True),
    "Min": variadic(smaller),
    "Mish": unary(functional.mish, lambda x: x * math.tanh(math.log1p(math.exp(x)))),
    "Mod": remainder,
    "Mul": binary(operator.mul, operator.mul),
    "Neg": unary(torch.neg, operator.neg),
    "Not": unary(torch.logical_not, operator.not_),
    "Or": binary(torch.logical_or, lambda a, b: bool(a) or bool(b), tensors_only=True),
    "PRelu": prelu,
    "Pow": binary(power, power),
    "Reciprocal": unary(torch.reciprocal, lambda x: 1 / x),
    "Relu": unary(torch.relu, lambda x: x if x > 0 else x * 0),
    "Round": unary(torch.round, lambda x: float(round(x))),
    "Selu": selu,
    "Sigmoid": unary(torch.sigmoid, lambda x: 1 / (1 + math.exp(-x))),
    "Sign": unary(torch.sign, lambda x: (x > 0) - (x < 0)),
    "Sin": unary(torch.sin, math.sin),
    "Sinh": unary(torch.sinh, math.sinh),
    "Softmax": softmax(functional.softmax),
    "Softplus": unary(functional.softplus, lambda x: math.log1p(math.exp(x))),
    "Softsign": unary(functional.softsign, lambda x: x / (1 + abs(x))),
    "Sqrt": unary(torch.sqrt, math.sqrt),
    "Sub": binary(operator.sub, operator.sub),
    "Sum": variadic(operator.add),
    "Swish": swish,
    "Tan": unary(torch.tan, math.tan),
    "Tanh": unary(torch.tanh, math.tanh),
    "ThresholdedRelu": thresholded_relu,
    "Where": where,
    "Xor": binary(torch.logical_xor, lambda a, b: bool(a) != bool(b), tensors_only=True),
}
