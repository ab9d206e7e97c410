"""Kendall's τ against numbers that are computed by hand."""

from __future__ import annotations

import pytest

from benchmarks.ranking import interval, kendall, mean_interval, mean_kendall


def test_tau_counts_pairs_that_agree() -> None:
    assert kendall([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert kendall([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert kendall([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)


def test_tau_takes_ties() -> None:
    # pairs: (1, 2) agree, (1, 3) agree, (2, 3) is tied in the second: 2 / sqrt(3 · 2)
    assert kendall([1, 2, 3], [0, 5, 5]) == pytest.approx(2 / 6**0.5)
    assert kendall([1, 2, 3], [7, 7, 7]) is None
    assert kendall([1], [1]) is None


def test_the_mean_is_over_pairs_and_none_where_one_has_none() -> None:
    same, other = ([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [1, 3, 2])
    assert mean_kendall([same, other]) == pytest.approx(2 / 3)
    assert mean_kendall([same, ([1, 2], [0, 0])]) is None


def test_the_interval_holds_the_middle_and_is_seeded() -> None:
    first = [float(each) for each in range(12)]
    second = [each if each % 4 else each + 5 for each in first]
    low, high = interval(first, second)
    tau = kendall(first, second)
    assert tau is not None
    assert -1 <= low < tau < high <= 1
    assert interval(first, second) == (low, high)
    assert mean_interval([(first, first)] * 2) == (1, 1)
