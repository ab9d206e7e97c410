"""Reshaping: every element keeps its atom, and one dimension of the result carries the units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from search.graph.dependency.labels import Atoms, Axis, Effect, Labels, freeze, tie_columns, total
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.operator import (
    Arguments,
    Operator,
    Sizes,
    by_output,
    of_all_inputs,
)
from search.graph.exported.export import BATCH

TOGETHER = "two dimensions that could both shrink are flattened together"
FEW, MANY = 4, 128  # sizes that are hardly a number of heads, and hardly one of head dimensions


def reshape(call: OpCall) -> Outcome:
    """View, reshape, flatten, squeeze: dimensions are matched in blocks of equal size."""
    x, out = call.first, call.out
    axes: list[Axis] = [None] * len(out.shape)
    effects = [
        _reshape_block(call, x, before, after, axes)
        for before, after in blocks(x.shape, out.shape)
    ]
    return call.give(axes, total(effects))


def to_complex(call: OpCall) -> Outcome:
    """(…, 2) -> (…): real and imaginary parts are one."""
    x = call.first
    return call.give(x.axes[:-1], freeze(x.axis(-1), "its units are parts of complex numbers"))


def from_complex(call: OpCall) -> Outcome:
    """(…) -> (…, 2)."""
    return call.give((*call.first.axes, None))


def blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions that hold the same elements; sizes of 1 are left out."""
    sources = [dim for dim, size in enumerate(before) if size != 1]
    targets = [dim for dim, size in enumerate(after) if size != 1]
    while sources and targets:
        left, right = [sources.pop(0)], [targets.pop(0)]
        while (held := _count(before, left)) != (wanted := _count(after, right)):
            (left if held < wanted else right).append(
                (sources if held < wanted else targets).pop(0)
            )
        yield left, right


def _count(shape: Sequence[int], dims: list[int]) -> int:
    return math.prod(shape[dim] for dim in dims)


def _reshape_block(
    call: OpCall, x: Labels, before: list[int], after: list[int], axes: list[Axis]
) -> Effect:
    """The longest dimension with units of a tensor is placed first; others need room beside it."""
    labelled = [(dim, axis) for dim in before if (axis := x.axes[dim]) is not None]
    labelled.sort(key=lambda pair: (bool((pair[1] >= call.held).any()), -len(pair[1])))
    return total(_place(call, x, before, dim, after, axes) for dim, _ in labelled)


def _place(
    call: OpCall, x: Labels, before: list[int], dim: int, after: list[int], axes: list[Axis]
) -> Effect:
    """Give the atoms of `dim` to one dimension of the output.

    Where they differ along several, the tensor stays rectangular only if what differs along the
    others is tied: heads leave whole, channel shuffle loses the same channel of every part.
    """
    block = _merged(x, before, dim).reshape([call.out.shape[d] for d in after])
    varying = [position for position in range(len(after)) if _varies(block, position)]
    order = _order(call, varying or [len(after) - 1], after, dim == len(x.shape) - 1)
    possible = [position for position in order if axes[after[position]] is None]
    if not possible:
        return freeze(x.axes[dim], TOGETHER)
    position = possible[call.choice % len(possible)]
    rows = np.moveaxis(block, position, -1).reshape(-1, block.shape[position])
    axes[after[position]] = rows[0]
    effect = tie_columns(rows)
    if len(possible) > 1:
        effect += Effect(choices=((rows[0], len(possible)),))
    return effect


def _merged(x: Labels, before: list[int], labelled: int) -> Atoms:
    """The atoms of the block's elements, in memory order."""
    axis = x.axes[labelled]
    if axis is None:
        raise ValueError("a merged dimension must be labelled")
    inner = math.prod(x.shape[dim] for dim in before if dim > labelled)
    outer = math.prod(x.shape[dim] for dim in before if dim < labelled)
    return np.tile(np.repeat(axis, inner), outer)


def _varies(block: Atoms, position: int) -> bool:
    columns = np.moveaxis(block, position, 0)
    return bool((columns != columns[0]).any())


def _order(call: OpCall, varying: list[int], after: list[int], tokens: bool) -> list[int]:
    """The positions that could carry the units, best first.

    Of tokens the last dimension is split, into heads and head dimensions: the heads are best,
    then the head dimensions. Of images it is the channels: the longest part is best.
    """
    sizes = [_length(call.out, after[position]) for position in varying]
    longest = [varying[i] for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], -i))]
    if not tokens or len(varying) < 2:
        return longest
    best = [varying[-2], varying[-1]]
    if len(varying) == 2 and sizes[0] <= FEW and sizes[1] > MANY:
        best.reverse()
    return [*best, *(position for position in longest if position not in best)]


def _length(out: Labels, dim: int) -> int:
    """The size without the batch."""
    return out.shape[dim] // (BATCH if dim in out.batch else 1)


def _rewritten_unflatten(sizes: Sizes, given: Arguments) -> Arguments:
    (out,), listed = sizes.outputs, list(given["sizes"])
    start = given["dim"] % (len(out.shape) - len(listed) + 1)
    return given | {"sizes": sizes.scaled(listed, out, start)}


OPERATORS = (
    Operator(
        ("_unsafe_view", "view"),
        propagate=reshape,
        rewrite=by_output("size"),
        zeros=of_all_inputs,
        is_view=True,
    ),
    Operator(
        ("reshape",),
        propagate=reshape,
        rewrite=by_output("shape"),
        zeros=of_all_inputs,
        is_view=True,
    ),
    Operator(
        ("unflatten",),
        propagate=reshape,
        rewrite=_rewritten_unflatten,
        zeros=of_all_inputs,
        is_view=True,
    ),
    Operator(
        ("flatten", "squeeze", "unsqueeze"), propagate=reshape, zeros=of_all_inputs, is_view=True
    ),
    Operator(
        ("atleast_1d", "atleast_2d", "atleast_3d", "ravel", "reshape_as", "view_as"),
        propagate=reshape,
    ),
    Operator(("view_as_complex",), propagate=to_complex),
    Operator(("view_as_real",), propagate=from_complex),
)
