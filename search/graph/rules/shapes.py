"""Operators that move indices: reshape, permute, slice, expand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from search.graph.call import Call, Outcome, dims_of
from search.graph.labels import Atoms, Axis, Effect, Labels, freeze, tie_columns, total

WITH_BATCH = "its units are merged with the batch dimension"
TOGETHER = "two dimensions that could both shrink are flattened together"
CUT = "its units are cut at a fixed position"


def reshape(call: Call) -> Outcome:
    """View, reshape, flatten, squeeze: dimensions are matched in blocks of equal size."""
    x, out = call.first, call.out
    axes: list[Axis] = [None] * len(out.shape)
    effect = Effect()
    for before, after in blocks(x.shape, out.shape):
        effect += _reshape_block(x, out, before, after, axes)
    return call.give(axes, effect)


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
    x: Labels, out: Labels, before: list[int], after: list[int], axes: list[Axis]
) -> Effect:
    labelled = [dim for dim in before if x.axes[dim] is not None]
    if not labelled:
        return Effect()
    if len(before) == len(after) == 1:
        axes[after[0]] = x.axes[before[0]]
        return Effect()
    if x.batch.intersection(before):
        return total(freeze(x.axes[dim], WITH_BATCH) for dim in labelled)
    if len(labelled) > 1:
        return total(freeze(x.axes[dim], TOGETHER) for dim in labelled)
    return _spread(_merged(x, before, labelled[0]), out, after, axes)


def _merged(x: Labels, before: list[int], labelled: int) -> Atoms:
    """The atoms of the block's elements, in memory order."""
    axis = x.axes[labelled]
    if axis is None:
        raise ValueError("a merged dimension must be labelled")
    inner = math.prod(x.shape[dim] for dim in before if dim > labelled)
    outer = math.prod(x.shape[dim] for dim in before if dim < labelled)
    return np.tile(np.repeat(axis, inner), outer)


def _spread(atoms: Atoms, out: Labels, after: list[int], axes: list[Axis]) -> Effect:
    """Give the atoms to the one dimension along which they differ, else to the longest.

    In the latter case the tensor stays rectangular only if what differs along the other
    dimensions is tied: channel shuffle prunes the same channel of every shuffle group.
    """
    sizes = [out.shape[dim] for dim in after]
    block = atoms.reshape(sizes)
    longest = max(range(len(after)), key=lambda position: (sizes[position], position))
    for position in [longest, *range(len(after))]:
        columns = np.moveaxis(block, position, -1).reshape(-1, sizes[position])
        if bool((columns == columns[0]).all()):
            axes[after[position]] = columns[0]
            return Effect()
    columns = np.moveaxis(block, longest, -1).reshape(-1, sizes[longest])
    axes[after[longest]] = columns[0]
    return tie_columns(columns)


def permute(call: Call) -> Outcome:
    """Dimensions in a new order."""
    x = call.first
    return call.give([x.axes[dim] for dim in dims_of(call["dims"], len(x.shape))])


def transpose(call: Call) -> Outcome:
    """Two dimensions swapped; `t` swaps the only two."""
    axes = list(call.first.axes)
    if len(axes) > 1:
        a, b = call.arguments.get("dim0", 0), call.arguments.get("dim1", 1)
        axes[a], axes[b] = axes[b], axes[a]
    return call.give(axes)


def expand(call: Call) -> Outcome:
    """Dimensions of size 1 repeated, new ones in front."""
    x, out = call.first, call.out
    lead = len(out.shape) - len(x.shape)
    return call.give((*(None,) * lead, *x.axes))


def expand_as(call: Call) -> Outcome:
    """Dimensions of size 1 grow to those of the other operand, and shrink with them."""
    x, other = call["self"], call["other"]
    axes = list(other.axes)
    for dim in range(-len(x.shape), 0):
        if x.shape[dim] > 1:
            axes[dim] = x.axes[dim]
    return call.give(axes)


def repeat(call: Call) -> Outcome:
    """Tiles: copies of a unit leave together."""
    x, times = call.first, call["repeats"]
    lead = len(times) - len(x.shape)
    axes = [
        None if axis is None else np.tile(axis, count)
        for axis, count in zip(x.axes, times[lead:], strict=True)
    ]
    return call.give((*(None,) * lead, *axes))


def slicing(call: Call) -> Outcome:
    """A slice of a dimension that cannot shrink, or a whole one."""
    x, dim = call.first, call.arguments.get("dim", 0)
    axes = list(x.axes)
    if call.out.shape[dim] == x.shape[dim]:
        return call.give(axes)
    effect = freeze(axes[dim], CUT)
    axes[dim] = None
    return call.give(axes, effect)


def select(call: Call) -> Outcome:
    """One index of a dimension that cannot shrink."""
    x, dim = call.first, call["dim"]
    axes = list(x.axes)
    return call.give([*axes[:dim], *axes[dim % len(axes) + 1 :]], freeze(axes[dim], CUT))


def flip(call: Call) -> Outcome:
    """Dimensions reversed."""
    axes = list(call.first.axes)
    for dim in dims_of(call["dims"], len(axes)):
        axis = axes[dim]
        axes[dim] = None if axis is None else axis[::-1].copy()
    return call.give(axes)


def roll(call: Call) -> Outcome:
    """Indices moved around, in a circle; without `dims` the whole tensor is one line."""
    x, dims = call.first, call["dims"]
    axes = list(x.axes)
    if not dims:
        return call.give_frozen("its units move between dimensions")
    for dim, shift in zip(dims, call["shifts"], strict=True):
        axis = axes[dim]
        axes[dim] = None if axis is None else np.roll(axis, shift)
    return call.give(axes)


def pad(call: Call) -> Outcome:
    """Borders, given from the last dimension on; units along a padded dimension freeze."""
    x, widths = call.first, call["pad"]
    axes = list(x.axes)
    effect = Effect()
    for step in range(len(widths) // 2):
        if any(widths[2 * step : 2 * step + 2]):
            effect += freeze(axes[-1 - step], "its units are padded")
            axes[-1 - step] = None
    return call.give(axes, effect)


def pixel_shuffle(call: Call) -> Outcome:
    """(…, C · r · r, H, W) -> (…, C, H · r, W · r): r · r channels in a row are one unit."""
    x, factor = call.first, call["upscale_factor"]
    axis = x.axis(-3)
    if axis is None:
        return call.give((*x.axes[:-3], None, *x.axes[-2:]))
    rows = axis.reshape(-1, factor * factor)
    return call.give((*x.axes[:-3], rows[:, 0], *x.axes[-2:]), tie_columns(rows.T))


def pixel_unshuffle(call: Call) -> Outcome:
    """(…, C, H · r, W · r) -> (…, C · r · r, H, W)."""
    x, factor = call.first, call["downscale_factor"]
    axis = x.axis(-3)
    wide = None if axis is None else np.repeat(axis, factor * factor)
    return call.give((*x.axes[:-3], wide, *x.axes[-2:]))


def channel_shuffle(call: Call) -> Outcome:
    """(B, groups · n, …): the same channel of every shuffle group is one unit."""
    x, groups = call.first, call["groups"]
    axis = x.axis(1)
    if axis is None:
        return call.give(x.axes)
    rows = axis.reshape(groups, -1)
    return call.give((x.axes[0], rows.T.reshape(-1), *x.axes[2:]), tie_columns(rows))
