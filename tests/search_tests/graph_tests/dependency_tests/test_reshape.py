"""Reshape and tied units, by properties: every element keeps its atom."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from search.graph.dependency.components import components
from search.graph.dependency.labels import Labels
from search.graph.dependency.op_call import OpCall
from search.graph.dependency.operators.shapes import blocks, reshape

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


@given(shapes)
def test_blocks_partition_the_dimensions_and_hold_equally_many(shape: tuple[int, ...]) -> None:
    flat = (math.prod(shape),)
    for before, after in ((shape, flat), (flat, shape), (shape, shape[::-1])):
        found = list(blocks(before, after))
        used = [dim for left, _ in found for dim in left]
        assert used == [dim for dim, size in enumerate(before) if size > 1]
        for left, right in found:
            sizes = math.prod(before[d] for d in left), math.prod(after[d] for d in right)
            assert sizes[0] == sizes[1]


@given(st.integers(2, 4), st.integers(2, 4), st.integers(2, 4), st.integers(0, 2))
def test_flatten_and_unflatten_give_the_axis_back(a: int, b: int, c: int, dim: int) -> None:
    shape = (a, b, c)
    axes = tuple(np.arange(shape[dim]) if d == dim else None for d in range(3))
    flat = Labels((a * b * c,), (None,))
    (merged,), effect = reshape(OpCall("view", {"self": Labels(shape, axes)}, (flat,)))
    assert merged.axes[0] is not None
    expected = np.broadcast_to(
        np.arange(shape[dim]).reshape([-1 if d == dim else 1 for d in range(3)]), shape
    ).reshape(-1)
    assert np.array_equal(merged.axes[0], expected)
    back = Labels(shape, (None, None, None))
    (split,), again = reshape(OpCall("view", {"self": merged}, (back,)))
    assert split.labelled == (dim,)
    assert effect.ties == again.ties == ()


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=20))
def test_components_are_those_of_the_graph(pairs: list[tuple[int, int]]) -> None:
    sets = [{atom} for atom in range(16)]
    for left, right in pairs:
        merged = next(s for s in sets if left in s) | next(s for s in sets if right in s)
        sets = [s for s in sets if not s & merged] + [merged]
    ties = [(np.array([left]), np.array([right])) for left, right in pairs]
    expected = [min(next(s for s in sets if atom in s)) for atom in range(16)]
    assert components(16, ties).tolist() == expected
