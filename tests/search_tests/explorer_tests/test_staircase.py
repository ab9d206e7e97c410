import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.explorer.staircase import (
    allowed_widths,
    bisection_width,
    coarse_widths,
    filled,
    points_each,
)


def test_multiples_of_eight_come_first_from_the_half_outwards() -> None:
    assert coarse_widths(64, points=10) == [32, 24, 40, 16, 48, 8, 56]
    assert coarse_widths(64, points=4) == [32, 16, 48]
    assert coarse_widths(16, points=4) == [8]


def test_many_groups_get_fewer_points_each() -> None:
    assert points_each(4, 10) == 4
    assert points_each(4, 40) == 2
    assert points_each(4, 500) == 2  # dense, and two to choose from
    assert points_each(1, 500) == 1
    assert points_each(4, 0) == 4


def test_a_narrow_group_is_halved() -> None:
    assert coarse_widths(6, points=4) == [3]
    assert coarse_widths(1, points=4) == []


def test_a_block_is_measured_without() -> None:
    assert coarse_widths(1, points=4, least=0) == [0]
    assert bisection_width(1, {0: 0.7}, {0}) is None
    assert allowed_widths(1, {0: 0.7}, gain=0.01) == {1: 1.0, 0: 0.7}


def test_bisection_goes_where_the_latency_jumps() -> None:
    stairs = {16: 0.80, 32: 0.82, 48: 0.98}
    assert bisection_width(64, stairs, {16, 32, 48}) == 40


def test_bisection_ends_when_every_width_was_tried() -> None:
    assert bisection_width(4, {1: 0.9, 2: 0.92, 3: 0.97}, {1, 2, 3}) is None


def test_bisection_stops_at_an_eighth_of_the_group() -> None:
    stairs = {16: 0.8, 24: 0.9}
    assert bisection_width(32, stairs, {16, 24}) in {8, 12, 20, 28}
    assert bisection_width(16, {8: 0.8, 10: 0.99}, {8, 10}) in {2, 4, 6, 12, 14}


def test_bisection_goes_on_beside_a_width_that_failed() -> None:
    assert bisection_width(16, {}, {8}) in {2, 4, 6, 10, 12, 14}


def test_a_width_slower_than_a_larger_one_is_not_allowed() -> None:
    stairs = {31: 1.26, 24: 1.01, 16: 0.89, 8: 0.885, 4: 0.7}
    assert allowed_widths(32, stairs, gain=0.01) == {32: 1.0, 16: 0.89, 4: 0.7}


@given(st.dictionaries(st.integers(1, 40), st.floats(0.1, 1.5), max_size=12))
def test_each_allowed_width_is_faster_than_all_wider_ones(stairs: dict[int, float]) -> None:
    ratios = list(allowed_widths(40, stairs, gain=0.002).values())
    assert all(wide > narrow for wide, narrow in zip(ratios, ratios[1:], strict=False))


def test_stairs_in_int8_have_the_shape_of_the_float_ones_where_they_were_not_measured() -> None:
    in_float = {64: 1.0, 48: 0.96, 32: 0.9, 16: 0.8}
    one = filled(in_float, {16: 0.5}, 0.6)
    assert one == pytest.approx({64: 0.6, 48: 0.58, 32: 0.55, 16: 0.5})
    two = filled(in_float, {16: 0.5, 32: 0.52}, 0.6)
    assert two == pytest.approx({64: 0.6, 48: 0.568, 32: 0.52, 16: 0.5})


def test_below_the_narrowest_measured_stair_int8_saves_in_proportion() -> None:
    assert filled({64: 1.0, 32: 0.9, 8: 0.8}, {32: 0.55}, 0.6)[8] == pytest.approx(0.5)


def test_a_group_that_saves_nothing_in_int8_saves_nothing_at_any_width() -> None:
    assert set(filled({64: 1.0, 32: 0.9, 16: 0.8}, {16: 0.6}, 0.6).values()) == {0.6}


def test_without_a_measured_stair_nothing_is_filled() -> None:
    assert filled({64: 1.0, 32: 0.9}, {}, 0.6) == {}
