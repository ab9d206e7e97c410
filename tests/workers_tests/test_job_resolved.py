"""Another budget from what a job found out: what it asks again, and what not."""

from __future__ import annotations

from jobs.repository import tasks
from latency_probes.messages import MeasureError
from latency_probes.samples import Measurement
from tests.workers_tests.workshop import Question, Workshop, staircase

SEARCH = {"levels": 3, "beam_width": 2, "children": 3, "calibration_images": 32, "finalists": 1}
BUDGETS = (0.5, 0.9, 0.8, 0.7, 0.6)


def test_five_budgets_cost_little_more_than_the_tightest(workshop: Workshop) -> None:
    device, measured = workshop.device(), list[int]()
    jobs: list[str] = []
    for budget in BUDGETS:
        asked = 0

        def answer(question: Question) -> Measurement | MeasureError:
            nonlocal asked
            asked += question.kind == "screening"
            return staircase(question)

        job_id = workshop.submit(search=SEARCH, budget={"ratio": budget})
        if jobs:
            with workshop.bench.write() as session:
                assert tasks.copy_losses(session, jobs[0], job_id) > 0
        before = {task.key for task in workshop.tasks(job_id, "sensitivity")}
        workshop.play(job_id, answer, device_id=device)
        job = workshop.job(job_id)
        assert job.state == "succeeded"
        assert job.result is not None
        assert job.result["ratio"] <= budget
        if jobs:  # no loss is found twice
            assert {task.key for task in workshop.tasks(job_id, "sensitivity")} == before
        jobs.append(job_id)
        measured.append(asked)
    assert measured[0] > 20
    assert sum(measured) <= 1.6 * measured[0]
