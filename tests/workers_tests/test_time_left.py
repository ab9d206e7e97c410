"""The time left is a range that is never above what was told before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from jobs.spec import JobSpec
from workers.snapshot import Snapshot
from workers.time_left import measuring_pace_s, part_began_s, time_left

SPEC = {
    "model": "net", "dataset": "data", "budget": "60%",
    "finetune": {"steps": 100, "batch_size": 50},
}  # fmt: skip
PREPARED = {
    "groups": [],
    "dense_digest": "d",
    "dense_skeleton": {"digest": "d", "size": 1, "location": "l"},
    "scores": "s",
    "calibration_loss": 1.0,
    "validation_loss": 1.0,
    "validation_accuracy": 0.5,
    "seconds_per_image": 0.001,
}


def job(
    told: list[float] | None = None, prepared: dict[str, Any] | None = None, measured: int = 0
) -> Snapshot:
    """A job with so many measurements, two seconds apart."""
    progress = {} if told is None else {"seconds_left_range": told}
    first = datetime(2026, 1, 1, tzinfo=UTC)
    ends = [first + timedelta(seconds=2 * number) for number in range(measured)]
    stands_for = SimpleNamespace(
        job=SimpleNamespace(progress=progress, id="job_1"),
        spec=JobSpec.model_validate(SPEC),
        result=lambda key: prepared,
        found={str(end): SimpleNamespace(created_at=end) for end in ends},
    )
    return cast(Snapshot, stands_for)


def test_nothing_is_told_while_nothing_is_known() -> None:
    assert time_left(job(), "preparing", 0.5, 10) is None
    assert time_left(job(prepared=PREPARED), "searching", 0.0, 1, 100) is None
    assert time_left(job(prepared=PREPARED, measured=9), "searching", 0.0, 1) is None


def test_a_search_counts_what_is_to_be_measured_and_the_training_that_follows() -> None:
    searching = job(prepared=PREPARED, measured=40)
    assert measuring_pace_s(searching) == 2.0
    low, high = time_left(searching, "searching", 0.5, 60, 70) or (0, 0)
    training_s = 4 * 100 * 50 * 0.001  # forward of the dense model, forward and back of the other
    assert low <= 2 * 70 <= high - training_s
    assert low >= 0.5 * 2 * 70
    assert high >= 2.5 * 2 * 70 + training_s + 60


def test_a_preparation_that_knows_what_a_search_would_measure_tells_the_time_left() -> None:
    before = job(prepared=PREPARED, measured=9)
    low, high = time_left(before, "preparing", 0.5, 60, 100) or (0, 0)
    searching = time_left(before, "searching", 0.0, 0, 100) or (0, 0)
    assert (low, high) == (searching[0], searching[1] + 1.5 * 60)
    assert time_left(job(measured=9), "preparing", 0.5, 60, 100) is None


def test_a_limit_of_time_ends_what_is_left_of_search_and_training() -> None:
    searching = job(prepared=PREPARED, measured=40)
    free = time_left(searching, "searching", 0.5, 60, 1000) or (0, 0)
    low, high = time_left(searching, "searching", 0.5, 60, 1000, limit_s=180.0) or (0, 0)
    assert free[0] > 900
    assert 180 <= low < high <= 180 + 60 + 120
    assert time_left(searching, "searching", 0.5, 60, 1000, limit_s=1e6) == free
    _, before = time_left(searching, "preparing", 0.5, 60, 1000, limit_s=180.0) or (0, 0)
    assert before == high + 1.5 * 60
    _, training = time_left(job(), "finetuning", 0.25, 100, limit_s=50.0) or (0, 0)
    assert training == 50 + 120


def test_what_was_measured_while_the_search_was_prepared_is_no_pace_of_the_search() -> None:
    """The search finds 40 of 110 candidates known when it is a second old."""
    _, high = time_left(job(prepared=PREPARED, measured=40), "searching", 0.36, 1, 70) or (0, 0)
    assert high > 2 * 70 + 4 * 100 * 50 * 0.001


def test_training_in_int8_lies_within_what_was_told() -> None:
    """A step of a ResNet-20 in int8 took 3.95 forward passes of its dense model on one core."""
    low, high = time_left(job(prepared=PREPARED, measured=9), "searching", 0.9, 60, 0) or (0, 0)
    assert low < 3.95 * 100 * 50 * 0.001 < high


def test_training_goes_by_the_steps_that_were_run() -> None:
    low, high = time_left(job(), "finetuning", 0.25, 100) or (0, 0)
    assert low <= 300 <= high
    assert high <= 1.5 * 300 + 120


def test_the_range_never_grows() -> None:
    assert time_left(job([10, 20]), "finetuning", 0.25, 100) == (10, 20)
    assert time_left(job([10, 2000]), "finetuning", 0.25, 100) == (10, 570)
    assert time_left(job([10, 20]), "preparing", 0.5, 10) == (10, 20)


def test_nothing_is_left_when_it_is_done() -> None:
    assert time_left(job([10, 20]), "done", 1.0, 100) == (0, 0)


def test_a_phase_begins_where_its_name_first_comes() -> None:
    assert part_began_s({"phase": "searching", "phase_began_s": 3.0}, "searching", 9.0) == 3.0
    assert part_began_s({"phase": "preparing", "phase_began_s": 3.0}, "searching", 9.0) == 9.0
    assert part_began_s({"phase": "searching"}, "searching", 9.0) == 9.0
