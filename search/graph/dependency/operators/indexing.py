"""Operators that pick indices: slice, select, gather, tables read by an index."""

from __future__ import annotations

from dataclasses import replace

from search.graph.dependency.labels import (
    PICKED,
    Axis,
    Labels,
    cut,
    freeze,
    meet,
    role,
    tie,
    total,
)
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.elementwise import aligned, broadcast
from search.graph.dependency.operators.operator import (
    Arguments,
    Operator,
    Sizes,
    always,
    of_all_inputs,
)

STEPPED = "its units are cut in steps"
LOOKED_UP = "its units are looked up by an index"


def slicing(call: OpCall) -> Outcome:
    """Slice and narrow: the atoms of the part."""
    x, dim = call.first, call.dim()
    axes = list(x.axes)
    axis = axes[dim]
    if axis is None or call.out.shape[dim] == x.shape[dim]:
        return call.give(axes)
    part = _part(call, len(axis))
    if part.step not in (None, 1):
        axes[dim] = None
        return call.give(axes, freeze(axis, STEPPED))
    axes[dim], effect = cut(axis, part)
    return call.give(axes, effect)


def _part(call: OpCall, size: int) -> slice:
    if "length" not in call.arguments:
        start, end = (call.arguments.get(name) for name in ("start", "end"))
        return slice(start, end, call.arguments.get("step"))
    start = call["start"] % size
    return slice(start, start + call["length"])


def select(call: OpCall) -> Outcome:
    """One index of a dimension that cannot shrink."""
    x, dim = call.first, call.dim()
    return call.give((*x.axes[:dim], *x.axes[dim + 1 :]), freeze(x.axes[dim], PICKED))


def index(call: OpCall) -> Outcome:
    """x[:, i, j]: the indexed dimensions become those of the index, the others go through.

    Where one dimension is indexed by constants, its units are moved.
    """
    x = call.first
    given: list[Labels | None] = [
        item if isinstance(item, Labels) else None for item in call["indices"]
    ]
    given += [None] * (len(x.shape) - len(given))
    places = [dim for dim, item in enumerate(given) if item is not None]
    if len(places) == 1 and (moved := _moved(x, places[0], given[places[0]])) is not None:
        return call.give((*x.axes[: places[0]], moved, *x.axes[places[0] + 1 :]))
    rest = [axis for axis, item in zip(x.axes, given, strict=True) if item is None]
    effect = total(freeze(x.axes[dim], LOOKED_UP) for dim in places)
    adjacent = places == list(range(places[0], places[-1] + 1))
    lead = places[0] if adjacent else 0
    picked, meeting = broadcast([item for item in given if item is not None])
    (out,), effect = call.give((*rest[:lead], *picked, *rest[lead:]), effect + meeting)
    return (replace(out, weight=x.weight),), effect  # of each expert that an example uses


def index_select(call: OpCall) -> Outcome:
    """Also `take` along one dimension: only that dimension is looked up, or moved by constants."""
    x, dim, chosen = call.first, call.dim(), call["index"]
    if (moved := _moved(x, dim, chosen)) is not None:
        return call.give((*x.axes[:dim], moved, *x.axes[dim + 1 :]))
    picked = chosen.axes[0] if chosen.axes else None
    axes = (*x.axes[:dim], picked, *x.axes[dim + 1 :])
    return call.give(axes, freeze(x.axes[dim], LOOKED_UP))


def _moved(x: Labels, dim: int, index: Labels | None) -> Axis:
    """The atoms that an index of constants picks, which need not be that many; else None.

    Rows of a table are looked up: they are no units.
    """
    axis = x.axes[dim]
    if axis is None or x.weight or index is None or index.known is None:
        return None
    return axis[index.known] if index.known.ndim == 1 and index.known.size > 1 else None


def gather(call: OpCall) -> Outcome:
    """Along `dim` the index decides; along the others value and index are one."""
    x, dim = call.first, call.dim()
    chosen = call.arguments.get("index", call.arguments.get("indices"))
    axes: list[Axis] = []
    effect = freeze(x.axes[dim], LOOKED_UP)
    for place, (own, other) in enumerate(zip(x.axes, chosen.axes, strict=True)):
        if place == dim:
            axes.append(other)
        elif x.shape[place] == chosen.shape[place]:
            effect += tie(own, other)
            axes.append(own if other is not None else None)
        else:
            effect += freeze(own, LOOKED_UP) + freeze(other, LOOKED_UP)
            axes.append(None)
    return call.give(axes, effect)


def embedding(call: OpCall) -> Outcome:
    """A row of the table for every index."""
    table, indices = call["weight"], call["indices"]
    effect = freeze(table.axis(0), LOOKED_UP) + role(table.axis(1), table, "producer")
    return call.give((*indices.axes, table.axis(1)), effect)


def write(call: OpCall) -> Outcome:
    """Scatter and the likes of `index_add`: along `dim` an index decides where to write.

    Along the others the target, the values and an index of as many dimensions are one.
    """
    x, dim = call["self"], call.dim()
    operands = [each for each in call.inputs if len(each.shape) == len(x.shape)]
    axes: list[Axis] = []
    effects = []
    for place, size in enumerate(x.shape):
        met = [each.axes[place] for each in operands]
        if place != dim and all(each.shape[place] == size for each in operands):
            axis, effect = meet(met)
        else:
            axis, effect = None, total(freeze(each, LOOKED_UP) for each in met)
        axes.append(axis)
        effects.append(effect)
    return call.give(axes, total(effects))


def put(call: OpCall) -> Outcome:
    """x[:, i, mask] = values: where an index decides nothing can go; the rest is one with values.

    An index of the shape of the dimensions from its place on is taken for a mask of them.
    """
    x, values = call["self"], call["values"]
    indexed: list[int] = []
    picked, place = 0, 0
    for item in call["indices"]:
        shape = item.shape if isinstance(item, Labels) else ()
        is_mask = len(shape) > 1 and shape == x.shape[place : place + len(shape)]
        taken = len(shape) if is_mask else 1
        if isinstance(item, Labels):
            indexed += range(place, place + taken)
            picked = max(picked, 1 if is_mask else len(shape))
        place += taken
    first, rest = indexed[0], len(x.shape) - indexed[-1] - 1
    if len(indexed) < len(x.shape) - rest - first:
        return call.give_frozen(LOOKED_UP)
    effects = [freeze(x.axes[dim], LOOKED_UP) for dim in indexed]
    for back in range(rest + 1, rest + picked + 1):
        effects += [freeze(axis, LOOKED_UP) for axis in aligned(values, -back)]
    axes = [None if dim in indexed else axis for dim, axis in enumerate(x.axes)]
    for dim in (*range(first), *range(len(x.shape) - rest, len(x.shape))):
        away = dim - len(x.shape) + (len(indexed) - picked if dim < first else 0)
        axes[dim], effect = meet([axes[dim], *aligned(values, away)])
        effects.append(effect)
    return call.give(axes, total(effects))


def embedding_bag(call: OpCall) -> Outcome:
    """The sum, mean or maximum of rows of the table; three more outputs describe the rows."""
    table = call["weight"]
    effect = freeze(table.axis(0), LOOKED_UP) + role(table.axis(1), table, "producer")
    rest = [(None,) * len(out.shape) for out in call.outputs[1:]]
    return call.give_each([(None, table.axis(1)), *rest], effect)


def _rewritten_slice(sizes: Sizes, given: Arguments) -> Arguments | None:
    """Start and end move by what was removed before them; an end that is open stays so.

    It must: a dimension that the batch takes part in may be of any length.
    """
    dim, x = given.get("dim", 0), sizes.input("self")
    axis = None if x is None else x.axis(dim)
    if axis is None or not sizes.shrinks(axis):
        return None
    start, end, _ = slice(given.get("start"), given.get("end")).indices(len(axis))
    ends = {"start": sizes.count(axis, start)}
    if end < len(axis):
        ends["end"] = sizes.count(axis, end)
    return given | {"dim": dim} | ends


def _rewritten_narrow(sizes: Sizes, given: Arguments) -> Arguments | None:
    x, start, length = sizes.input("self"), given["start"], given["length"]
    axis = None if x is None else x.axis(given["dim"])
    if axis is None or not sizes.shrinks(axis):
        return None
    first = sizes.count(axis, start)
    return given | {"start": first, "length": sizes.count(axis, start + length) - first}


def _rewritten_index_select(sizes: Sizes, given: Arguments) -> Arguments | None:
    """An index of constants picks the units that stay."""
    dim = given["dim"] % len(sizes.outputs[0].shape)
    moved = sizes.moved("self", dim, sizes.input("index"))
    return None if moved is None else given | {"index": moved}


def _rewritten_index(sizes: Sizes, given: Arguments) -> Arguments | None:
    """The same, of one dimension among several."""
    listed = list(given["indices"])
    places = [dim for dim, item in enumerate(listed) if item is not None]
    moved = sizes.moved("self", places[0], sizes.item("indices", places[0]))
    if len(places) > 1 or moved is None:
        return None
    return given | {"indices": [*listed[: places[0]], moved, *listed[places[0] + 1 :]]}


OPERATORS = (
    Operator(("slice",), propagate=slicing, rewrite=_rewritten_slice, zeros=of_all_inputs),
    Operator(("narrow",), propagate=slicing, rewrite=_rewritten_narrow, zeros=of_all_inputs),
    Operator(("select",), propagate=select),
    Operator(("index",), propagate=index, rewrite=_rewritten_index, picks=True),
    Operator(("_unsafe_index",), propagate=index, rewrite=_rewritten_index),
    Operator(
        ("index_select",), propagate=index_select, rewrite=_rewritten_index_select, picks=True
    ),
    Operator(("gather",), propagate=gather, picks=True),
    Operator(("take_along_dim",), propagate=gather),
    Operator(
        ("index_add", "index_copy", "index_fill", "index_reduce", "scatter", "scatter_add",
         "scatter_reduce"),
        propagate=write,
    ),
    Operator(("index_put",), propagate=put),
    Operator(
        ("embedding",), propagate=embedding, zeros=always, is_producer=True, reads_parameters=True
    ),
    Operator(
        ("embedding_bag",), propagate=embedding_bag, is_producer=True, reads_parameters=True
    ),
)  # fmt: skip
