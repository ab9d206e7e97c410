"""Rules of the floors: monotone fit, water-filling, bounds."""

from __future__ import annotations

import math

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
