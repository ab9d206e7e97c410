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


def test_a_round_compares_the_fastest_calls() -> None:
    candidate, reference = [[900, 600, 950]] * 3, [[1000, 1010], [1000, 1900], [1800, 1000]]
    assert intervals.paired_ratio(candidate, reference) == pytest.approx(0.6)


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


def test_t_quantiles_at_any_level_are_exact() -> None:
    for degrees in range(1, 32):
        assert intervals.student_t(degrees, 0.05) == pytest.approx(
            intervals.student_t95(degrees), abs=6e-4
        )
    assert intervals.student_t(2, 0.01) == pytest.approx(9.9248, abs=1e-4)
    assert intervals.student_t(5, 0.001) == pytest.approx(6.8688, abs=1e-4)


@pytest.mark.parametrize(
    ("ratios", "threshold", "side"),
    [
        ([0.500, 0.501, 0.502], 0.6, "below"),
        ([0.500, 0.501, 0.502], 0.4, "above"),
        ([0.500, 0.501, 0.502], 0.505, None),
        ([0.6, 0.6, 0.6], 0.6, None),
        ([0.5, 0.5, 0.5], 0.6, "below"),
    ],
)
def test_side_of_a_threshold_is_told_only_beyond_doubt(
    ratios: list[float], threshold: float, side: str | None
) -> None:
    assert intervals.decided(ratios, threshold, looks=3) == side


def test_more_looks_make_each_of_them_stricter() -> None:
    ratios = [0.500, 0.505, 0.510]
    reach = intervals.student_t(2, 0.05 / 3) * 0.0099 / math.sqrt(3)
    threshold = 0.505 * math.exp(0.9 * reach)
    assert intervals.decided(ratios, threshold, looks=1) == "below"
    assert intervals.decided(ratios, threshold, looks=3) is None


def errs(random_: random.Random, looks: int, alpha_shared_by: int) -> bool:
    """Whether looking after the 3rd, 4th ... of replicates that lie on the threshold decides."""
    ratios = [0.6 * math.exp(random_.gauss(0, 0.01)) for _ in range(2 + looks)]
    return any(
        intervals.decided(ratios[: 3 + look], 0.6, looks=alpha_shared_by) for look in range(looks)
    )


def test_looking_repeatedly_does_not_raise_the_error() -> None:
    random_, trials = random.Random(0), 2000
    assert sum(errs(random_, 3, 3) for _ in range(trials)) / trials <= 0.05
    assert sum(errs(random_, 3, 1) for _ in range(trials)) / trials > 0.07


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
