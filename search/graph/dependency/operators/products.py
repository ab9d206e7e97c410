"""Products of matrices: the inner dimensions are one, the outer ones go through.

Labelled dimensions that a product runs in parallel are heads.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from search.graph.dependency.labels import (
    Axis,
    Effect,
    Labels,
    meet,
    role,
    tie,
    total,
)
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.elementwise import aligned, broadcast
from search.graph.dependency.operators.operator import (
    MacCounter,
    Operands,
    Operator,
    SizedAxis,
    always,
    sized,
)


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
    met = [meet([axis, *aligned(c, dim)]) for dim, axis in from_last(axes)]
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
    batches, together = parallel((a, b))
    return [*batches, a.axis(-2), b.axis(-1)], effect + together


def parallel(operands: Sequence[Labels]) -> tuple[list[Axis], Effect]:
    """The leading dimensions of matrices: broadcast, tied, and heads where they are labelled."""
    axes, effect = broadcast(operands, inner=2)
    return axes, effect + heads(axes)


def heads(axes: Iterable[Axis]) -> Effect:
    """What the labelled ones of `axes` carry are heads."""
    return Effect(heads=tuple(axis[axis >= 0] for axis in axes if axis is not None))


def from_last(axes: Sequence[Axis]) -> list[tuple[int, Axis]]:
    return [(place - len(axes), axis) for place, axis in enumerate(axes)]


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


def _macs_of(first: str, summed: tuple[int, ...] = ()) -> MacCounter:
    """A product of matrices: every output takes the last dimension of the operand `first`.

    Args:
        first: the name of the left operand.
        summed: further dimensions of it that the operator sums over.
    """

    def count(operands: Operands, out: Labels) -> Iterator[Sequence[SizedAxis]]:
        left = sized(operands[first])
        yield [*sized(out), left[-1], *(left[dim] for dim in summed)]

    return count


def _linear_macs(operands: Operands, out: Labels) -> Iterator[Sequence[SizedAxis]]:
    yield [*sized(out), sized(operands["weight"])[-1]]


def _einsum_macs(operands: Operands, out: Labels) -> Iterator[Sequence[SizedAxis]]:
    """Operands are taken from left to right; letters of no later use are summed at once."""
    if "equation" not in operands:
        return
    terms, _, wanted = operands["equation"].replace(" ", "").partition("->")
    letters = [
        _spelled(term, labels)
        for term, labels in zip(terms.split(","), operands["tensors"], strict=True)
    ]
    seen = letters[0]
    for place, term in enumerate(letters[1:], 2):
        seen = term | seen  # a broadcast dimension has the size of the left operand
        yield list(seen.values())
        later = {letter for other in letters[place:] for letter in other} | set(wanted)
        seen = {x: size for x, size in seen.items() if x in later or x.startswith(".")}


def _spelled(term: str, labels: Labels) -> dict[str, SizedAxis]:
    """Letter -> axis; the dimensions of an ellipsis are named from the right."""
    before, dots, after = term.partition("...")
    hidden = len(labels.shape) - len(before) - len(after)
    names = [*before, *(f".{place}" for place in range(hidden, 0, -1) if dots), *after]
    return dict(zip(names, sized(labels), strict=True))


OPERATORS = (
    Operator(
        ("linear",),
        propagate=linear,
        macs=_linear_macs,
        zeros=always,
        is_producer=True,
        reads_parameters=True,
    ),
    Operator(
        ("addmm",),
        propagate=add_product,
        macs=_macs_of("mat1"),
        zeros=always,
        is_producer=True,
        reads_parameters=True,
    ),
    Operator(("addmv",), propagate=add_product, macs=_macs_of("mat")),
    Operator(("baddbmm",), propagate=add_product, macs=_macs_of("batch1"), is_producer=True),
    Operator(("addbmm",), macs=_macs_of("batch1", summed=(0,))),
    Operator(
        ("bmm", "matmul", "mm"),
        propagate=matmul,
        macs=_macs_of("self"),
        zeros=always,
        is_producer=True,
    ),
    Operator(("dot", "mv"), propagate=matmul, macs=_macs_of("self")),
    Operator(("vdot",), propagate=matmul),
    Operator(("einsum",), propagate=einsum, macs=_einsum_macs, zeros=always, is_producer=True),
    Operator(("bilinear",), propagate=bilinear),
    Operator(("cdist",), propagate=distances),
    Operator(("cosine_similarity",), propagate=cosine_similarity),
    Operator(("inner",), propagate=inner),
    Operator(("outer",), propagate=outer),
    Operator(("tensordot",), propagate=tensordot),
)
