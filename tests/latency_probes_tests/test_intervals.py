"""The statistics of timings, against values computed by hand and by simulation."""

import math
import random

import pytest

from latency_probes import intervals


def test_the_paired_ratio_cancels_a_drift_common_to_both() -> None:
    reference = [[1000 * (1 + i)] * 3 for i in range(9)]
    candidate = [[600 * (1 + i)] * 3 for i in range(9)]
    assert intervals.paired_ratio(candidate, reference) == pytest.approx(0.6)


def test_one_disturbed_round_does_not_move_the_ratio() -> None:
    assert intervals.paired_ratio([[600], [600], [9000]], [[1000]] * 3) == pytest.approx(0.6)


@pytest.mark.parametrize(("candidate", "reference"), [([], []), ([[1]], [[1], [1]])])
def test_unpaired_rounds_are_refused(
    candidate: list[list[int]], reference: list[list[int]]
) -> None:
    with pytest.raises(ValueError, match="same number of rounds"):
        intervals.paired_ratio(candidate, reference)


def test_the_interval_is_students_t_on_the_logarithms() -> None:
    found = intervals.ratio_interval([0.5, 0.55, 0.6])
    logs = [math.log(x) for x in (0.5, 0.55, 0.6)]
    mean = sum(logs) / 3
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2)
    reach = 4.303 * deviation / math.sqrt(3)
    assert found.ratio == pytest.approx(math.exp(mean))
    assert found.low == pytest.approx(math.exp(mean - reach))
    assert found.high == pytest.approx(math.exp(mean + reach))


@pytest.mark.parametrize("ratios", [[], [0.5], [0.5, 0.0], [0.5, -1.0]])
def test_too_few_or_impossible_ratios_are_refused(ratios: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2 and all positive"):
        intervals.ratio_interval(ratios)


@pytest.mark.parametrize("replicates", [3, 6])
def test_the_interval_covers_about_95_percent(replicates: int) -> None:
    random_ = random.Random(0)
    trials = 2000
    covered = 0
    for _ in range(trials):
        found = intervals.ratio_interval(
            [0.6 * math.exp(random_.gauss(0, 0.01)) for _ in range(replicates)]
        )
        covered += found.low <= 0.6 <= found.high
    assert 0.93 <= covered / trials <= 0.97


def test_t_quantiles_are_those_of_the_published_table() -> None:
    assert intervals.student_t95(2) == 4.303
    assert intervals.student_t95(30) == 2.042
    with pytest.raises(ValueError, match="between 1 and 31"):
        intervals.student_t95(0)


def test_a_spread_counts_outliers_and_keeps_them() -> None:
    found = intervals.spread([*range(100, 200), 5000])
    assert (found.count, found.outliers, found.min_ns) == (101, 1, 100)
    assert found.median_ns == 150
    assert found.iqr_ns == 50
    assert found.mad_ns == 25
    assert found.p90_ns == 190


def test_a_p90_that_the_count_cannot_support_is_null() -> None:
    assert intervals.spread([1] * 63).p90_ns is None
    assert intervals.spread([1] * 64).p90_ns == 1


@pytest.mark.parametrize(("p", "name", "least"), [(0.9, "p90_ns", 64), (0.99, "p99_ns", 662)])
def test_a_percentile_needs_two_samples_beyond_it_with_99_percent(
    p: float, name: str, least: int
) -> None:
    def two_beyond(n: int) -> float:
        return float(1 - p**n - n * (1 - p) * p ** (n - 1))

    assert two_beyond(least - 1) < 0.99 <= two_beyond(least)
    assert getattr(intervals.spread([1] * (least - 1)), name) is None
    assert getattr(intervals.spread([1] * least), name) == 1
