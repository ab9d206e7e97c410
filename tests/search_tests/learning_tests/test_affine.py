"""Rules of solving a graph's numbers as affine functions of sizes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import SkeletonError
from search.graph.dependency.groups import Group, Member
from search.skeleton.affine import Affine, is_regular, sizes, solve


def member(tensor: str, dim: int, width: int, per_unit: int = 1) -> Member:
    units = tuple(tuple(range(u * per_unit, (u + 1) * per_unit)) for u in range(width))
    return Member(tensor, dim, "consumer", units)


def group(name: str, width: int, *members: Member) -> Group:
    return Group(name, width, "channels", members, "prunable")


A = group("a", 8, member("fc", 1, 8, 4), member("a", 0, 8))
B = group("b", 6, member("fc", 1, 6, 2))


def test_sizes_are_widths_and_shared_dimensions() -> None:
    assert sizes([A, B]) == [(("a", 1),), (("b", 1),), (("a", 2), ("b", 1))]


@given(
    widths=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 6)), min_size=4, max_size=6),
    offset=st.integers(0, 9),
    slope=st.integers(1, 9),
)
def test_a_solution_explains_every_sample(
    widths: list[tuple[int, int]], offset: int, slope: int
) -> None:
    samples = [[7, offset + slope * (2 * a + b), b] for a, b in widths]
    named = [{"a": a, "b": b} for a, b in widths]
    solved = solve(samples, named, sizes([A, B]))
    for values, sizes_of_sample in zip(samples, named, strict=True):
        for position, function in (solved or {}).items():
            assert function(sizes_of_sample) == values[position]


def test_two_explanations_ask_for_another_sample() -> None:
    known = sizes([A, B])
    alike = [{"a": 8, "b": 4}, {"a": 6, "b": 3}]
    assert solve([[8], [6]], alike, known) is None
    solved = solve([[8], [6], [8]], [*alike, {"a": 8, "b": 2}], known)
    assert solved == {0: Affine(Fraction(0), Fraction(1), (("a", 1),))}


def test_a_multiple_is_preferred_to_a_function_with_an_offset() -> None:
    solved = solve([[8], [6]], [{"a": 8, "b": 6}, {"a": 6, "b": 4}], sizes([A, B]))
    assert solved == {0: Affine(Fraction(0), Fraction(1), (("a", 1),))}


def test_a_number_that_no_size_explains_is_an_error() -> None:
    widths = [{"a": 8, "b": 6}, {"a": 4, "b": 3}, {"a": 2, "b": 1}]
    with pytest.raises(SkeletonError, match=r"affine in a size, but got \(64, 16, 4\)"):
        solve([[64], [16], [4]], widths, sizes([A, B]))


def test_a_derived_number_is_whole() -> None:
    half = Affine(Fraction(0), Fraction(1, 2), (("a", 1),))
    assert half({"a": 6}) == 3
    with pytest.raises(SkeletonError, match="integer ≥ 0, but got 5/2"):
        half({"a": 5})


def test_units_of_different_sizes_make_a_group_irregular() -> None:
    uneven = Member("x", 0, "producer", ((0,), (1, 2)))
    assert is_regular(A)
    assert not is_regular(group("c", 2, uneven))
