"""The time left is a range that is never above what was told before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from jobs.spec import JobSpec
from workers.snapshot import Snapshot
from workers.time_left import part_began_s, time_left

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


def job(told: list[float] | None = None, prepared: dict[str, Any] | None = None) -> Snapshot:
    progress = {} if told is None else {"seconds_left_range": told}
    stands_for = SimpleNamespace(
        job=SimpleNamespace(progress=progress, id="job_1"),
        spec=JobSpec.model_validate(SPEC),
        result=lambda key: prepared,
    )
    return cast(Snapshot, stands_for)


def test_nothing_is_told_while_nothing_is_known() -> None:
    assert time_left(job(), "preparing", 0.5, 10) is None
    assert time_left(job(prepared=PREPARED), "searching", 0.0, 1) is None


def test_a_search_counts_the_training_that_follows() -> None:
    low, high = time_left(job(prepared=PREPARED), "searching", 0.5, 60) or (0, 0)
    training_s = 100 * 50 * 0.001
    assert low >= 0.4 * 60 + training_s
    assert high >= 2.5 * 60 + 2 * training_s


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
