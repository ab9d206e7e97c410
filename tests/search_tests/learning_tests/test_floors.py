"""Rules of the floors: monotone fit, water-filling, bounds."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import ConfigError
from search.floors import isotonic, layer_floors, monotone_curve, predicted_rise
from search.sensitivity import Sensitivity

RATIOS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)

rise = st.floats(-0.1, 5) | st.sampled_from([0.0, math.inf, math.nan])
sensitivities = st.dictionaries(
    st.sampled_from("abcde"), st.tuples(rise, rise, rise, rise), min_size=1
).map(lambda rises: Sensitivity(RATIOS, rises))
tolerances = st.floats(0, 10)


def floors_of(sensitivity: Sensitivity, tolerance: float, width: int = 64) -> dict[str, int]:
    return layer_floors(sensitivity, tolerance, widths=dict.fromkeys("abcde", width))


@given(sensitivity=sensitivities, tolerance=tolerances, width=st.integers(1, 512))
def test_floors_lie_between_one_and_the_width(
    sensitivity: Sensitivity, tolerance: float, width: int
) -> None:
    assert all(1 <= w <= width for w in floors_of(sensitivity, tolerance, width).values())


@given(sensitivity=sensitivities, tolerance=tolerances, more=tolerances)
def test_a_larger_tolerance_never_raises_a_floor(
    sensitivity: Sensitivity, tolerance: float, more: float
) -> None:
    tight, loose = floors_of(sensitivity, tolerance), floors_of(sensitivity, tolerance + more)
    assert all(loose[name] <= tight[name] for name in tight)


@given(sensitivity=sensitivities, tolerance=tolerances)
def test_the_predicted_total_rise_stays_within_the_tolerance(
    sensitivity: Sensitivity, tolerance: float
) -> None:
    width = 10_000
    floors = floors_of(sensitivity, tolerance, width)
    total = sum(
        predicted_rise(monotone_curve(RATIOS, rises), 1 - floors[name] / width)
        for name, rises in sensitivity.rises.items()
        if floors[name] > 1
    )
    assert total <= tolerance * (1 + 1e-9) + 1e-9


def test_no_tolerance_removes_only_what_is_free() -> None:
    sensitivity = Sensitivity(RATIOS, {"a": (0.0, 0.0, 0.2, 0.5), "b": (0.1, 0.2, 0.3, 0.9)})
    floors = layer_floors(sensitivity, 0.0, widths={"a": 64, "b": 64})
    assert floors == {"a": 48, "b": 64}


def test_equal_groups_share_the_tolerance() -> None:
    linear = tuple(ratio * 0.8 for ratio in RATIOS)
    floors = layer_floors(
        Sensitivity(RATIOS, {"a": linear, "b": linear}), 0.4, widths={"a": 64, "b": 32}
    )
    assert floors == {"a": 48, "b": 24}


def test_water_fills_the_flattest_curve_first_until_margins_are_equal() -> None:
    sensitivity = Sensitivity((0.5,), {"flat": (0.1,), "steep": (0.3,)})
    widths = {"flat": 100, "steep": 100}
    assert layer_floors(sensitivity, 0.1, widths=widths) == {"flat": 50, "steep": 100}
    assert layer_floors(sensitivity, 0.2 + 0.3, widths=widths) == {"flat": 1, "steep": 50}


slopes = st.lists(st.integers(0, 6), min_size=4, max_size=4).map(sorted)


@given(
    each=st.lists(slopes, min_size=1, max_size=3),
    tolerance=st.integers(0, 12).map(lambda quarters: quarters / 4),
)
def test_no_other_widths_within_the_tolerance_remove_more_of_convex_curves(
    each: list[list[int]], tolerance: float
) -> None:
    """Against every choice of eighths; a curve goes on beyond 3/4 with its steepest slope."""
    ratios = (1 / 4, 1 / 2, 3 / 4)
    curves = {
        name: tuple(sum(own[: place + 1]) / 4 for place in range(3))
        for name, own in zip("abc", each, strict=False)
    }
    fitted = {name: monotone_curve(ratios, rises) for name, rises in curves.items()}
    floors = layer_floors(Sensitivity(ratios, curves), tolerance, widths=dict.fromkeys(curves, 8))
    whole = layer_floors(
        Sensitivity(ratios, curves), tolerance, widths=dict.fromkeys(curves, 1000)
    )
    eighths = [[number / 8 for number in range(9)] for _ in curves]
    most = max(
        sum(choice)
        for choice in product(*eighths)
        if sum(map(predicted_rise, fitted.values(), choice)) <= tolerance + 1e-9
    )
    reached = sum(1 - width / 1000 for width in whole.values())
    assert reached >= most - 0.002 * len(curves)  # floors are whole units, and one stays
    assert sum(8 - width for width in floors.values()) / 8 <= reached + 1e-9


def test_bits_are_floors_of_eight() -> None:
    ratios = (0.25, 0.5, 0.75)  # 6, 4 and 2 bits
    sensitivity = Sensitivity(ratios, {"first": (0.0, 0.2, 0.9), "other": (0.0, 0.01, 0.06)})
    eight, least = {"first": 8, "other": 8}, {"first": 2, "other": 2}
    assert layer_floors(sensitivity, 0.06, widths=eight, least=least) == {"first": 6, "other": 2}
    assert layer_floors(sensitivity, 0.3, widths=eight, least=least) == {"first": 5, "other": 2}


def test_a_group_without_sensitivity_keeps_its_width() -> None:
    sensitivity = Sensitivity((0.5,), {"a": (0.0,)})
    assert layer_floors(sensitivity, 9.0, widths={"a": 8, "other": 8}) == {"a": 1, "other": 8}


def test_a_rise_that_is_not_finite_is_never_afforded() -> None:
    sensitivity = Sensitivity(RATIOS, {"a": (0.0, 0.0, math.inf, math.nan)})
    assert layer_floors(sensitivity, 1e6, widths={"a": 64}) == {"a": 48}


@given(st.lists(st.floats(-5, 5), max_size=8))
def test_the_isotonic_fit_never_falls_and_keeps_the_mean(values: list[float]) -> None:
    fitted = isotonic(values)
    assert fitted == sorted(fitted)
    assert sum(fitted) == pytest.approx(sum(values), abs=1e-9)


def test_the_isotonic_fit_pools_violators() -> None:
    assert isotonic([1.0, 3.0, 2.0, 4.0]) == [1.0, 2.5, 2.5, 4.0]
    assert isotonic([3.0, 2.0, 1.0]) == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("tolerance", [-0.1, math.nan])
def test_a_tolerance_below_zero_is_refused(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="tolerance must be ≥ 0"):
        layer_floors(Sensitivity((0.5,), {}), tolerance, widths={})
