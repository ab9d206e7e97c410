"""Operators that work index by index: aligned axes are one."""

from __future__ import annotations

from collections.abc import Sequence

from search.graph.dependency.labels import Axis, Effect, Labels, meet, tie, total
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.operator import Operator, covers, of_all_inputs


def elementwise(call: OpCall) -> Outcome:
    """Broadcast operands: where two of them have an extent, their axes are tied."""
    return call.give(*broadcast(call.inputs))


def same_axes(call: OpCall) -> Outcome:
    """The output has the axes of the first operand: dropout, clone, cumulative sums."""
    return call.give(call.first.axes)


def prelu(call: OpCall) -> Outcome:
    """One slope for all channels, or one for each of them (dimension 1)."""
    x, slope = call["self"], call["weight"]
    if slope.shape in ((), (1,)):
        return call.give(x.axes)
    return call.give(x.axes, tie(x.axis(1), slope.axis(0)))


def broadcast(operands: Sequence[Labels], inner: int = 0) -> tuple[list[Axis], Effect]:
    """The axes of `operands` but the last `inner`, tied as broadcasting aligns them."""
    rank = max(len(labels.shape) for labels in operands)
    met = [
        meet(axis for labels in operands for axis in aligned(labels, dim))
        for dim in range(-rank, -inner)
    ]
    return [axis for axis, _ in met], total(effect for _, effect in met)


def aligned(labels: Labels, dim: int) -> list[Axis]:
    """The axis at `dim`, counted from the end; none where the value is broadcast."""
    extends = len(labels.shape) >= -dim and labels.shape[dim] > 1
    return [labels.axes[dim]] if extends else []


def _zeros_of_sum(call: OpCall, out: Labels) -> bool:
    number = isinstance(call.arguments.get("other"), int | float)
    inputs = call.inputs
    return bool(inputs) and not number and all(x.vanishes and covers(x, out) for x in inputs)


def _zeros_of_product(call: OpCall, out: Labels) -> bool:
    return any(x.vanishes and covers(x, out) for x in call.inputs)


def _zeros_of_quotient(call: OpCall, out: Labels) -> bool:
    return bool(call.inputs) and call.first.vanishes and covers(call.first, out)


def _zeros_of_power(call: OpCall, out: Labels) -> bool:
    exponent = call.arguments.get("exponent")
    vanishes = bool(call.inputs) and call.first.vanishes
    return vanishes and isinstance(exponent, int | float) and exponent > 0


SPECIAL = (
    "digamma", "erf", "erfc", "erfinv", "exp2", "expit", "expm1", "gammainc", "gammaincc",
    "gammaln", "i0", "log1p", "logit", "multigammaln", "ndtr", "polygamma", "psi", "round", "sinc",
    "xlogy",
)  # fmt: skip

OPERATORS = (
    Operator(
        ("alpha_dropout", "feature_alpha_dropout"), propagate=same_axes, training_flag=2
    ),
    Operator(
        ("dropout", "feature_dropout"),
        propagate=same_axes,
        zeros=of_all_inputs,
        is_view=True,
        training_flag=2,
    ),
    Operator(
        ("alias", "contiguous", "detach", "to"),
        propagate=same_axes,
        zeros=of_all_inputs,
        is_view=True,
    ),
    Operator(("_to_copy", "clone"), propagate=same_axes, zeros=of_all_inputs),
    Operator(
        ("bernoulli", "cumsum", "fill", "lift_fresh_copy", "rrelu", "type_as", "zero"),
        propagate=same_axes,
    ),
    Operator(
        ("__and__", "__or__", "__xor__", "_conj", "absolute", "arccos", "arcsin", "arctan",
         "arctan2", "clip", "complex", "copy", "divide", "fix", "floor_divide", "greater",
         "greater_equal", "imag", "isclose", "less", "less_equal", "log_sigmoid", "multiply",
         "negative", "not_equal", "polar", "real", "resolve_conj", "resolve_neg", "rsub",
         "subtract", "true_divide", "where"),
        propagate=elementwise,
    ),
    Operator(tuple(f"special_{name}" for name in SPECIAL), propagate=elementwise),
    Operator(("hardswish",), propagate=elementwise, zeros=of_all_inputs),
    Operator(("prelu",), propagate=prelu, zeros=of_all_inputs),
    Operator(
        ("abs", "elu", "gelu", "leaky_relu", "neg", "relu", "relu6", "silu", "sqrt", "square",
         "tanh"),
        zeros=of_all_inputs,
    ),
    Operator(("add", "addcmul", "sub"), zeros=_zeros_of_sum),
    Operator(("mul",), zeros=_zeros_of_product),
    Operator(("div",), zeros=_zeros_of_quotient),
    Operator(("pow",), zeros=_zeros_of_power),
)  # fmt: skip
