"""What a check tells, in exact numbers."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest

from jobs import resolution
from jobs.checking import BUILT_IN, CheckSettings, built_in
from jobs.resolution import Trial
from tests.workers_tests.rows import measured

T2, T3, T4 = 4.303, 3.182, 2.776  # Student's t, 95 %, at 2, 3 and 4 degrees


def trial(*logs: float, kind: str = "screening", low: float = 0.9, high: float = 1.1) -> Trial:
    return Trial(
        at="2026-01-01T12:00:00+00:00",
        kind=kind,
        verdict="ok",
        ratio=math.exp(sum(logs) / len(logs)),
        low=low,
        high=high,
        reference_ms=2.0,
        logs=logs,
        rounds=tuple((log - 0.01, log + 0.01) for log in logs),
        setup_s=(0.1,) * len(logs),
        timing_s=(0.2,) * len(logs),
        process_s=(0.5,) * len(logs),
    )


def found(*trials: Trial) -> dict[str, Any]:
    return resolution.document(trials)


def test_the_ratio_and_its_interval_are_those_of_the_trials() -> None:
    result = found(trial(0.0, 0.02), trial(0.0, -0.02), trial(0.0, 0.0))
    assert result["ratio"] == pytest.approx(1.0)
    reach = T2 * 0.01 / math.sqrt(3)
    assert result["ratio_low"] == pytest.approx(math.exp(-reach))
    assert result["ratio_high"] == pytest.approx(math.exp(reach))


def test_shares_count_the_trials_near_one_and_the_intervals_that_hold_it() -> None:
    result = found(
        trial(0.009, 0.009), trial(0.015, 0.015), trial(0.03, 0.03, low=1.01), trial(0.0, 0.0)
    )
    assert result["within_1_percent"] == 0.5
    assert result["within_2_percent"] == 0.75
    assert result["coverage"] == 0.75
    assert [each["covers"] for each in result["trials"]] == [True, True, False, True]


def test_processes_differ_by_the_spread_of_all_screening_replicates() -> None:
    result = found(trial(0.01, -0.01), trial(0.01, -0.01), trial(0.5, -0.5, kind="strict"))
    assert result["between_sd"] == pytest.approx(0.01 * math.sqrt(4 / 3))
    assert result["within_sd"] == pytest.approx(0.01 * math.sqrt(2))


def test_a_replicate_costs_its_whole_process() -> None:
    result = found(trial(0.0, 0.0), trial(0.0, 0.0))
    assert (result["replicate_s"], result["setup_s"], result["timing_s"]) == (0.5, 0.1, 0.2)


def test_what_recorded_replicates_cost_is_not_known() -> None:
    result = found(*[Trial.of(measured(1000, 1000), "now")] * 2)
    assert result["replicate_s"] is None
    assert [each["difference"] for each in result["resolution"]] == [None] * 3
    assert result["screening"] == 0.0


def test_the_smallest_difference_is_that_of_as_many_replicates_as_fit() -> None:
    result = found(trial(0.01, -0.01), trial(0.01, -0.01))
    spread = result["between_sd"]
    second, five, thirty = result["resolution"]
    assert [each["replicates"] for each in (second, five, thirty)] == [2, 10, 60]
    assert second["difference"] == pytest.approx(math.expm1(T3 * spread))
    assert five["difference"] == pytest.approx(math.expm1(T3 * spread * math.sqrt(0.2)))
    assert thirty["difference"] == pytest.approx(math.expm1(T3 * spread * math.sqrt(2 / 60)))
    assert result["screening"] == pytest.approx(math.expm1(T3 * spread * math.sqrt(2 / 3)))


@pytest.mark.parametrize("replicates", [None, 0, 1])
def test_less_than_two_replicates_resolve_nothing(replicates: int | None) -> None:
    assert resolution.smallest_difference(0.01, 9, replicates) is None


def test_replicates_of_unknown_cost_are_not_counted() -> None:
    assert resolution.replicates_in(1, None) is None
    assert resolution.replicates_in(1, 0.34) == 2


@pytest.mark.parametrize("count", [1, 33])
def test_a_check_has_two_to_thirty_two_trials(count: int) -> None:
    with pytest.raises(ValueError, match=f"2 to 32, but got {count}"):
        found(*[trial(0.0, 0.0)] * count)


@pytest.mark.parametrize(
    ("budget", "resolved", "levels"),
    [(0.5, 0.1, 6), (0.5, 0.061, 11), (0.9, 0.2, 1), (0.25, 0.5, 2), (0.5, 1.2, 1)],
)
def test_levels_are_as_many_as_lie_that_far_apart(
    budget: float, resolved: float, levels: int
) -> None:
    assert resolution.most_levels(budget, resolved) == levels
    assert levels == 1 or resolution.level_step(budget, levels) >= resolved - 1e-9
    assert resolution.level_step(budget, levels + 1) < resolved


def test_a_stored_measurement_becomes_a_trial() -> None:
    made = Trial.of(measured(1000, 1000, spread=0.02), "now")
    assert made.logs == pytest.approx((math.log(0.99), math.log(1.01), 0.0))
    assert made.rounds == tuple((log,) for log in made.logs)
    assert (made.process_s, made.covers) == ((0.0, 0.0, 0.0), True)
    assert resolution.round_sd([made]) is None


def test_history_tells_the_sentinel_where_it_is_known() -> None:
    raw = {"replicates": [{"sentinel_ns": pair} for pair in ([3000, 2000], [0, 0], [4000, 9000])]}
    point = resolution.moment("now", "a" * 64, 2.5, raw)
    assert point == {
        "at": "now", "sentinel_us": 3.0, "reference_ms": 2.5, "reference": "a" * 12,
    }  # fmt: skip
    unknown = {"replicates": [{"sentinel_ns": [0, 0]}]}
    assert resolution.moment("now", "a", None, unknown)["sentinel_us"] is None


def test_strict_trials_lie_between_and_after_the_others() -> None:
    planned = CheckSettings(screening=4, strict=2, replicates=7).trials()
    purposes = [purpose for purpose, _ in planned]
    assert purposes == [
        "screening:0", "screening:1", "strict:0", "screening:2", "screening:3", "strict:1",
    ]  # fmt: skip
    strict = planned[2][1]
    assert (strict.kind, strict.replicates, strict.max_replicates) == ("strict", 7, 7)
    assert len(CheckSettings().trials()) == 14
    assert len(CheckSettings.quick().trials()) == 6


def test_the_built_in_model_is_small_and_named_by_its_bytes() -> None:
    digest, model = built_in()
    assert (BUILT_IN, len(model) < 10_000) == ("resnet20", True)
    assert hashlib.sha256(model).hexdigest() == digest
