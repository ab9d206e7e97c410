"""Jobs whose levels are finer than what their device tells apart say so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.tables import Check
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_decision import add_job, look
from workers.phases.advice import advice, too_fine
from workers.phases.facts import levels
from workers.snapshot import Snapshot


@pytest.fixture
def snapshot(bench: Bench) -> Snapshot:
    """A job with a budget of half the latency in five levels, which nobody checked."""
    return look(bench, add_job(bench))


def checked(snapshot: Snapshot, screening: float | None) -> Snapshot:
    return replace(snapshot, check=Check(id="chk_1", result={"screening": screening}))


def test_levels_closer_than_what_screening_resolves_are_too_fine(snapshot: Snapshot) -> None:
    found = too_fine(checked(snapshot, 0.2))
    assert found is not None
    assert found["apart"] == pytest.approx(1 - 0.5**0.2)
    assert (found["most_levels"], found["check"]) == (3, "chk_1")
    assert found["text"] == (
        "levels are 12.9 % apart; this device resolves 20.0 % when screening: use at most 3 levels"
    )


def test_one_level_is_the_least(snapshot: Snapshot) -> None:
    assert (advice(checked(snapshot, 0.6), {}) or "").endswith("use at most 1 level")


@pytest.mark.parametrize("screening", [0.1, 0.05, 0.0, None])
def test_levels_that_the_device_resolves_need_no_word(
    snapshot: Snapshot, screening: float | None
) -> None:
    assert too_fine(checked(snapshot, screening)) is None


def test_without_a_check_nothing_is_said(snapshot: Snapshot) -> None:
    assert advice(snapshot, {"levels": 5}) is None


def test_levels_that_were_widened_are_told_and_nothing_more(snapshot: Snapshot) -> None:
    told = advice(checked(snapshot, 0.6), {"levels": 2})
    assert told == (
        "the search has 2 levels instead of 5: the latencies that were measured on this device do "
        "not tell closer ones apart"
    )
    snapshot.job.progress = {"levels": 2}
    assert (levels(snapshot), advice(snapshot, snapshot.job.progress)) == (2, told)


def test_floors_that_were_lowered_are_told_with_the_rise_that_they_allow(
    snapshot: Snapshot,
) -> None:
    assert advice(snapshot, {"levels": 5, "floors_doubled": 2}) == (
        "the widths that a loss rise of 0.1 allows leave too little room at the budget: 0.4 was "
        "allowed instead"
    )
