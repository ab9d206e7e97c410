"""Operators that move or copy whole dimensions and indices: permute, expand, roll, shuffles."""

from __future__ import annotations

import numpy as np

from search.graph.dependency.labels import (
    FREE,
    Atoms,
    Axis,
    Effect,
    Labels,
    free,
    freeze,
    tie_columns,
    total,
)
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.operator import (
    Arguments,
    Operator,
    Sizes,
    by_output,
    of_all_inputs,
)
from search.graph.exported.nodes import dims_of


def permute(call: OpCall) -> Outcome:
    """Dimensions in a new order."""
    x = call.first
    return call.give([x.axes[dim] for dim in dims_of(call["dims"], len(x.shape))])


def movedim(call: OpCall) -> Outcome:
    """Dimensions moved to other places, the rest in order."""
    x = call.first
    rank = len(x.shape)
    places = dict(
        zip(dims_of(call["destination"], rank), dims_of(call["source"], rank), strict=True)
    )
    rest = (dim for dim in range(rank) if dim not in places.values())
    return call.give([x.axes[places[d] if d in places else next(rest)] for d in range(rank)])


def transpose(call: OpCall) -> Outcome:
    """Two dimensions swapped; `t`, `mT` and `adjoint`, which name none, swap the last two."""
    axes = list(call.first.axes)
    if len(axes) > 1:
        a, b = (
            call.arguments.get(f"dim{place}", call.arguments.get(f"axis{place}", place - 2))
            for place in (0, 1)
        )
        axes[a], axes[b] = axes[b], axes[a]
    return call.give(axes)


def reverse(call: OpCall) -> Outcome:
    """All dimensions in the opposite order: `x.T`, `x.H`."""
    return call.give(call.first.axes[::-1])


def expand_as(call: OpCall) -> Outcome:
    """Dimensions of size 1 grow to those of the other operand, and shrink with them."""
    x, other = call["self"], call["other"]
    axes = list(other.axes)
    for dim in range(-len(x.shape), 0):
        if x.shape[dim] > 1:
            axes[dim] = x.axes[dim]
    return call.give(axes)


def repeat(call: OpCall) -> Outcome:
    """Tiles: copies of a unit leave together."""
    x = call.first
    given = call.arguments.get("repeats", call.arguments.get("dims"))
    times = [1] * (len(x.shape) - len(given)) + list(given)
    lead = len(times) - len(x.shape)
    axes = [
        None if axis is None else np.tile(axis, count)
        for axis, count in zip(x.axes, times[lead:], strict=True)
    ]
    return call.give((*(None,) * lead, *axes))


def repeat_interleave(call: OpCall) -> Outcome:
    """Every index repeated in place: copies of a unit leave together."""
    x, times = call.first, call["repeats"]
    if call.arguments.get("dim") is None or not isinstance(times, int):
        return call.give_frozen("its units are repeated by a tensor or as one line")
    dim, axes = call.dim(), list(x.axes)
    axis = axes[dim]
    axes[dim] = None if axis is None else np.repeat(axis, times)
    return call.give(axes)


def flip(call: OpCall) -> Outcome:
    """Dimensions reversed; `fliplr` is dimension 1, `flipud` dimension 0."""
    axes = list(call.first.axes)
    given = {"fliplr": 1, "flipud": 0}.get(call.op)
    for dim in dims_of(call["dims"] if given is None else given, len(axes)):
        axes[dim] = _reversed(axes[dim])
    return call.give(axes)


def rot90(call: OpCall) -> Outcome:
    """A plane turned: one or both of its dimensions reversed, and swapped by an odd turn."""
    axes = list(call.first.axes)
    a, b = dims_of(call["dims"], len(axes))
    for dim in ((), (b,), (a, b), (a,))[call["k"] % 4]:
        axes[dim] = _reversed(axes[dim])
    if call["k"] % 2:
        axes[a], axes[b] = axes[b], axes[a]
    return call.give(axes)


def _reversed(axis: Axis) -> Axis:
    return None if axis is None else axis[::-1].copy()


def roll(call: OpCall) -> Outcome:
    """Indices moved around, in a circle; without `dims` the whole tensor is one line."""
    x, dims = call.first, call["dims"]
    axes = list(x.axes)
    if not dims:
        return call.give_frozen("its units move between dimensions")
    for dim, shift in zip(dims, call["shifts"], strict=True):
        axis = axes[dim]
        axes[dim] = None if axis is None else np.roll(axis, shift)
    return call.give(axes)


def pad(call: OpCall) -> Outcome:
    """Borders, given from the last dimension on.

    One number everywhere, they can be of any width; those that mirror or cut units freeze them.
    """
    x, widths = call.first, list(call["pad"])
    axes = list(x.axes)
    effect = Effect()
    for step in range(len(widths) // 2):
        before, after = widths[2 * step : 2 * step + 2]
        axis = axes[-1 - step]
        if axis is None or before == after == 0:
            continue
        if min(before, after) < 0 or call.arguments.get("mode", "constant") != "constant":
            effect += freeze(axis, "its units are padded")
            axes[-1 - step] = None
        else:
            axes[-1 - step] = np.concatenate([_border(before), axis, _border(after)])
    return call.give(axes, effect)


def _border(width: int) -> Atoms:
    return np.full(width, FREE, np.int64)


def expand(call: OpCall) -> Outcome:
    """Dimensions of size 1 repeated, new ones in front: of any length, as all is equal there."""
    return call.give(_expanded(call.first, call.out))


def broadcast(call: OpCall) -> Outcome:
    """Every tensor of a list expanded to the shape of all."""
    pairs = zip(call.inputs, call.outputs, strict=True)
    return call.give_each([_expanded(x, out) for x, out in pairs], Effect())


def _expanded(x: Labels, out: Labels) -> list[Axis]:
    lead = len(out.shape) - len(x.shape)
    own: list[Axis] = [*(None,) * lead, *x.axes]
    sizes = (*(1,) * lead, *x.shape)
    return [
        free(size) if size > old and dim not in out.batch else axis
        for dim, (axis, old, size) in enumerate(zip(own, sizes, out.shape, strict=True))
    ]


def pixel_shuffle(call: OpCall) -> Outcome:
    """(…, C · r · r, H, W) -> (…, C, H · r, W · r): r · r channels in a row are one unit."""
    x, factor = call.first, call["upscale_factor"]
    axis, space = x.axis(-3), _frozen_space(x)
    if axis is None:
        return call.give((*x.axes[:-3], None, None, None), space)
    rows = axis.reshape(-1, factor * factor)
    return call.give((*x.axes[:-3], rows[:, 0], None, None), tie_columns(rows.T) + space)


def pixel_unshuffle(call: OpCall) -> Outcome:
    """(…, C, H · r, W · r) -> (…, C · r · r, H, W)."""
    x, factor = call.first, call["downscale_factor"]
    axis = x.axis(-3)
    wide = None if axis is None else np.repeat(axis, factor * factor)
    return call.give((*x.axes[:-3], wide, None, None), _frozen_space(x))


def _frozen_space(x: Labels) -> Effect:
    return total(freeze(axis, "its units are shuffled as space") for axis in x.axes[-2:])


def channel_shuffle(call: OpCall) -> Outcome:
    """(B, groups · n, …): the same channel of every shuffle group is one unit."""
    x, groups = call.first, call["groups"]
    axis = x.axis(1)
    if axis is None:
        return call.give(x.axes)
    rows = axis.reshape(groups, -1)
    return call.give((x.axes[0], rows.T.reshape(-1), *x.axes[2:]), tie_columns(rows))


def _rewritten_pad(sizes: Sizes, given: Arguments) -> Arguments | None:
    """Borders around units follow what they are concatenated with."""
    (out,), x, widths = sizes.outputs, sizes.input("self"), list(given["pad"])
    if x is None or not any(map(sizes.shrinks, out.axes[-(len(widths) // 2) :])):
        return None
    for step in range(len(widths) // 2):
        axis, before = out.axes[-1 - step], widths[2 * step]
        if axis is not None:
            inner = sizes.count(axis, before + x.shape[-1 - step])
            widths[2 * step] = sizes.count(axis, before)
            widths[2 * step + 1] = sizes.count(axis) - inner
    return given | {"pad": widths}


OPERATORS = (
    Operator(("t",), propagate=transpose, is_view=True),
    Operator(("transpose",), propagate=transpose, zeros=of_all_inputs, is_view=True),
    Operator(("adjoint", "mH", "mT", "swapaxes", "swapdims"), propagate=transpose),
    Operator(("movedim",), propagate=movedim, zeros=of_all_inputs, is_view=True),
    Operator(("moveaxis",), propagate=movedim),
    Operator(("permute",), propagate=permute, zeros=of_all_inputs, is_view=True),
    Operator(("matrix_H", "numpy_T"), propagate=reverse),
    Operator(
        ("expand",),
        propagate=expand,
        rewrite=by_output("size"),
        zeros=of_all_inputs,
        repeats=True,
    ),
    Operator(("broadcast_to",), propagate=expand, repeats=True),
    Operator(("expand_as",), propagate=expand_as, repeats=True),
    Operator(("broadcast_tensors",), propagate=broadcast),
    Operator(("flip",), propagate=flip, zeros=of_all_inputs),
    Operator(("fliplr", "flipud"), propagate=flip),
    Operator(("roll",), propagate=roll, zeros=of_all_inputs),
    Operator(("rot90",), propagate=rot90),
    Operator(("constant_pad_nd", "pad"), propagate=pad, rewrite=_rewritten_pad),
    Operator(("repeat", "tile"), propagate=repeat),
    Operator(("repeat_interleave",), propagate=repeat_interleave),
    Operator(("pixel_shuffle",), propagate=pixel_shuffle),
    Operator(("pixel_unshuffle",), propagate=pixel_unshuffle),
    Operator(("channel_shuffle", "native_channel_shuffle"), propagate=channel_shuffle),
)
