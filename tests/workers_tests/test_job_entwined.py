"""A job that trains between its levels: checkpoints, lineages and steps."""

from __future__ import annotations

import pytest

from jobs.artifacts import work_folder
from jobs.repository import candidates
from jobs.states import TaskState
from tests.workers_tests.workshop import Workshop

SEARCH = {
    "levels": 3, "beam_width": 2, "children": 3, "calibration_images": 32, "finalists": 1,
    "entwined": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def job_id(workshop: Workshop) -> str:
    job_id = workshop.submit(search=SEARCH, finetune={"steps": 10, "batch_size": 16})
    workshop.play(job_id)
    return job_id


def test_job_succeeds_from_weights_that_were_trained_in_the_tree(
    workshop: Workshop, job_id: str
) -> None:
    job = workshop.job(job_id)
    assert job.state == "succeeded"
    tuned = workshop.tasks(job_id, "tune")
    assert 2 <= len(tuned) <= SEARCH["beam_width"] * (SEARCH["levels"] - 1)
    assert all(task.state == TaskState.DONE and task.result for task in tuned)
    (finetuned,) = workshop.tasks(job_id, "finetune")
    start = finetuned.payload["start"]
    assert start["steps"] in (3, 6)  # of one level or two
    assert finetuned.result is not None
    assert start["steps"] + finetuned.result["steps"] == 10


def test_tree_tells_how_long_weights_were_trained(workshop: Workshop, job_id: str) -> None:
    with workshop.bench.context.read() as session:
        rows = candidates.tree(session, job_id)
    steps = {(row.plan or {}).get("steps", 0) for row in rows}
    assert {0, 3} <= steps <= {0, 3, 6}
    again = [row for row in rows if (row.plan or {}).get("steps")]
    assert all(row.digest != row.parent for row in again)


def test_checkpoints_go_with_the_job(workshop: Workshop, job_id: str) -> None:
    assert not workshop.bench.context.store.folders(work_folder(job_id))
