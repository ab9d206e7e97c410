"""Products of matrices: the inner dimensions are one, the outer ones go through.

Labelled dimensions that a product runs in parallel are heads.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from search.graph.dependency.labels import (
    FIXED,
    Axis,
    Effect,
    Labels,
    freeze,
    meet,
    role,
    tie,
    total,
)
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.elementwise import aligned, broadcast

SOFTMAX = "attention takes a softmax over its units"


def linear(call: OpCall) -> Outcome:
    """x (…, I), weight (O, I), bias (O,) -> (…, O)."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    made, read = weight.axis(0), weight.axis(-1)
    effect = tie(x.axis(-1), read) + role(read, weight, "consumer")
    if len(weight.shape) == 1:
        return call.give(x.axes[:-1], effect)
    effect += role(made, weight, "producer")
    if bias is not None:
        effect += tie(made, bias.axis(0))
    return call.give((*x.axes[:-1], made), effect)


def matmul(call: OpCall) -> Outcome:
    """a (…, n, k) @ b (…, k, m); a vector counts as a row or a column. Also mm, bmm, mv, dot."""
    a, b = call.inputs[:2]
    (*batches, row, column), effect = _product(_row(a), _column(b))
    rows = [row] if len(a.shape) > 1 else []
    columns = [column] if len(b.shape) > 1 else []
    return call.give([*batches, *rows, *columns], effect)


def add_product(call: OpCall) -> Outcome:
    """c + a @ b: addmm, baddbmm, addmv."""
    c, a, b = call.inputs[:3]
    axes, effect = _product(a, _column(b))
    axes = axes if len(b.shape) > 1 else axes[:-1]
    met = [meet([axis, *aligned(c, dim)]) for dim, axis in _from_last(axes)]
    return call.give([axis for axis, _ in met], effect + total(own for _, own in met))


def inner(call: OpCall) -> Outcome:
    """a (…, k), b (…, k) -> (…a, …b)."""
    a, b = call.inputs[:2]
    shared = bool(a.shape) and bool(b.shape)
    return _contract(call, a, b, [len(a.shape) - 1] * shared, [len(b.shape) - 1] * shared)


def outer(call: OpCall) -> Outcome:
    """a (n,), b (m,) -> (n, m)."""
    a, b = call.inputs[:2]
    return _contract(call, a, b, [], [])


def tensordot(call: OpCall) -> Outcome:
    """Pairs of dimensions are summed over; those of a that are left come before those of b."""
    a, b = call.inputs[:2]
    pairs = (call["dims_self"], a), (call["dims_other"], b)
    return _contract(call, a, b, *([dim % len(x.shape) for dim in dims] for dims, x in pairs))


def _contract(
    call: OpCall, a: Labels, b: Labels, of_a: Sequence[int], of_b: Sequence[int]
) -> Outcome:
    effect = total(tie(a.axes[i], b.axes[j]) for i, j in zip(of_a, of_b, strict=True))
    axes: list[Axis] = []
    for x, summed in ((a, of_a), (b, of_b)):
        effect += total(role(x.axes[dim], x, "consumer") for dim in summed)
        left = [axis for dim, axis in enumerate(x.axes) if dim not in summed]
        effect += total(role(axis, x, "producer") for axis in left)
        axes += left
    return call.give(axes, effect)


def _row(x: Labels) -> Labels:
    return replace(x, shape=(1, *x.shape), axes=(None, *x.axes)) if len(x.shape) == 1 else x


def _column(x: Labels) -> Labels:
    return replace(x, shape=(*x.shape, 1), axes=(*x.axes, None)) if len(x.shape) == 1 else x


def _product(a: Labels, b: Labels) -> tuple[list[Axis], Effect]:
    effect = tie(a.axis(-1), b.axis(-2))
    effect += role(b.axis(-1), b, "producer") + role(b.axis(-2), b, "consumer")
    effect += role(a.axis(-2), a, "producer") + role(a.axis(-1), a, "consumer")
    batches, together = _parallel((a, b))
    return [*batches, a.axis(-2), b.axis(-1)], effect + together


def _parallel(operands: Sequence[Labels]) -> tuple[list[Axis], Effect]:
    """The leading dimensions of matrices: broadcast, tied, and heads where they are labelled."""
    axes, effect = broadcast(operands, inner=2)
    return axes, effect + heads(axes)


def heads(axes: Iterable[Axis]) -> Effect:
    """What the labelled ones of `axes` carry are heads."""
    return Effect(heads=tuple(axis[axis >= 0] for axis in axes if axis is not None))


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
    batches, together = _parallel((query, key, value))
    tokens = query.axis(-2)
    mask = call.arguments.get("attn_mask")
    if call.arguments.get("is_causal", False):
        tokens, effect = None, effect + freeze(tokens, SOFTMAX)
    if mask is not None:
        effect += freeze(mask.axis(-1), SOFTMAX)
        met = [meet([axis, *aligned(mask, dim - 2)]) for dim, axis in _from_last(batches)]
        batches = [axis for axis, _ in met]
        tokens, own = meet([tokens, *aligned(mask, -2)])
        effect += own + total(meeting for _, meeting in met)
    return call.give((*batches, tokens, value.axis(-1)), effect + together)


def _from_last(axes: Sequence[Axis]) -> list[tuple[int, Axis]]:
    return [(place - len(axes), axis) for place, axis in enumerate(axes)]


def _shared(labels: Labels, query: Labels) -> Labels:
    """Keys or values that several query heads in a row share."""
    times = query.shape[-3] // labels.shape[-3]
    axis = labels.axis(-3)
    wide = None if axis is None else np.repeat(axis, times)
    shape = (*labels.shape[:-3], query.shape[-3], *labels.shape[-2:])
    return replace(labels, shape=shape, axes=(*labels.axes[:-3], wide, *labels.axes[-2:]))


def einsum(call: OpCall) -> Outcome:
    """Dimensions of one letter are one; what the output lacks is summed over."""
    return _summed(call, call["equation"], list(call["tensors"]))


def distances(call: OpCall) -> Outcome:
    """Of the rows of a (…, p, k) to those of b (…, r, k) -> (…, p, r): `cdist`."""
    return _summed(call, "...pk,...rk->...pr", call.inputs[:2])


def bilinear(call: OpCall) -> Outcome:
    """a (…, i), b (…, j), weight (o, i, j), bias (o,) -> (…, o)."""
    (out,), effect = _summed(call, "...i,...j,oij->...o", call.inputs[:3])
    bias = call["bias"]
    return (out,), effect if bias is None else effect + tie(out.axis(-1), bias.axis(0))


def cosine_similarity(call: OpCall) -> Outcome:
    """Products of two broadcast operands, and of each with itself, summed over `dim`."""
    axes, effect = broadcast(call.inputs)
    summed = axes.pop(call.dim(1, len(axes)))
    return call.give(
        axes, total((effect, *(role(summed, each, "consumer") for each in call.inputs)))
    )


def _summed(call: OpCall, equation: str, operands: Sequence[Labels]) -> Outcome:
    inputs, output = _letters(equation, operands)
    letters = dict.fromkeys("".join(inputs))
    summed = any(letter not in output for letter in letters)
    axes: dict[str, Axis] = {}
    effects = []
    for letter in letters:
        uses = [
            (labels, dim)
            for labels, own in zip(operands, inputs, strict=True)
            for dim in range(len(own))
            if own[dim] == letter and labels.shape[dim] > 1
        ]
        axes[letter], met = meet(labels.axes[dim] for labels, dim in uses)
        effects.append(met)
        if letter not in output or len(uses) == 1:
            kind: Literal["producer", "consumer"] = "producer" if letter in output else "consumer"
            effects += [role(labels.axes[dim], labels, kind) for labels, dim in uses]
        elif summed:
            effects.append(heads([axes[letter]]))
    return call.give([axes.get(letter) for letter in output], total(effects))


def _letters(equation: str, operands: Sequence[Labels]) -> tuple[list[str], str]:
    """Letters of every operand and of the output; "..." gets letters of its own."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    listed = left.split(",")
    many = [
        len(labels.shape) - len(letters.replace("...", ""))
        for labels, letters in zip(operands, listed, strict=True)
    ]
    unused = (letter for letter in string.ascii_letters if letter not in equation)
    spare = "".join(itertools.islice(unused, max(many)))
    given = [
        letters.replace("...", spare[len(spare) - count :])
        for letters, count in zip(listed, many, strict=True)
    ]
    if arrow:
        return given, output.replace("...", spare)
    once = [letter for letter in set(left) if letter.isalpha() and left.count(letter) == 1]
    return given, spare + "".join(sorted(once))
