"""Further budgets from what a job found out: what they ask again, and what not."""

from __future__ import annotations

from jobs.repository import events, jobs
from jobs.status import request_cancel
from jobs.tables import Job
from latency_probes.messages import MeasureError
from latency_probes.samples import Measurement
from tests.workers_tests.workshop import Question, Workshop, staircase

SEARCH = {
    "levels": 3,
    "beam_width": 2,
    "children": 3,
    "calibration_images": 32,
    "staircase_points": 2,
    "refinements": 0,
    "finalists": 1,
}


def further_ids(workshop: Workshop, job_id: str) -> list[str]:
    with workshop.bench.context.read() as session:
        log = events.after(session, job_id, 0, limit=1000)
        return [each.data["job_id"] for each in log if each.kind == "further_budget"]


def played(workshop: Workshop, job_id: str, device_id: str) -> tuple[Job, int]:
    """The job at its end, and how many screening measurements it took."""
    asked = 0

    def answer(question: Question) -> Measurement | MeasureError:
        nonlocal asked
        asked += question.kind == "screening"
        return staircase(question)

    return workshop.play(job_id, answer, device_id=device_id), asked


def test_five_budgets_cost_little_more_than_the_tightest(workshop: Workshop) -> None:
    device = workshop.device()
    further = [0.9, 0.8, 0.7, 0.6]
    job_id = workshop.submit(
        name="five", search=SEARCH, budget={"ratio": 0.5},
        further_budgets=[{"ratio": each} for each in further],
    )  # fmt: skip
    job, first = played(workshop, job_id, device)
    assert (job.state, first > 15) == ("succeeded", True)
    losses = {task.key for task in workshop.tasks(job_id, "sensitivity")}
    others = further_ids(workshop, job_id)
    assert [workshop.job(each).name for each in others] == [f"five-{n}" for n in range(2, 6)]
    total = first
    for budget, other in zip(further, others, strict=True):
        assert {task.key for task in workshop.tasks(other, "sensitivity")} == losses
        job, asked = played(workshop, other, device)
        total += asked
        assert job.state == "succeeded", job.problem
        assert (job.result or {})["ratio"] <= budget
        assert {task.key for task in workshop.tasks(other, "sensitivity")} == losses  # none again
        assert further_ids(workshop, other) == []
    assert total <= 1.6 * first


def test_a_further_budget_of_another_device_is_measured_there_and_scored_nowhere_again(
    workshop: Workshop,
) -> None:
    first, second = workshop.device(), workshop.device()
    job_id = workshop.submit(
        target={"runtime": "replay", "device": f"id:{first}"},
        further_budgets=[{"ratio": 0.6, "device": f"id:{second}"}],
    )
    _, asked = played(workshop, job_id, first)
    (other,) = further_ids(workshop, job_id)
    assert workshop.job(other).spec["target"]["device"] == f"id:{second}"
    losses = {task.key for task in workshop.tasks(other, "sensitivity")}
    assert losses == {task.key for task in workshop.tasks(job_id, "sensitivity")}
    job, again = played(workshop, other, second)
    assert job.state == "succeeded", job.problem
    assert again >= asked  # the other device's latencies say nothing of this one
    assert (job.result or {})["device_id"] == second
    assert {task.attempt for task in workshop.tasks(other, "sensitivity")} == {0}
    assert 0 in {task.attempt for task in workshop.tasks(other, "score")}  # some are the first's


def test_a_budget_that_is_out_of_reach_leaves_the_others(workshop: Workshop) -> None:
    device = workshop.device()
    job_id = workshop.submit(budget={"ratio": 0.01}, further_budgets=[{"ratio": 0.7}])
    assert played(workshop, job_id, device)[0].state == "infeasible"
    (other,) = further_ids(workshop, job_id)
    job, _ = played(workshop, other, device)
    assert job.state == "succeeded", job.problem
    assert (job.result or {})["ratio"] <= 0.7


def test_a_cancelled_job_has_no_further_ones(workshop: Workshop) -> None:
    job_id = workshop.submit(further_budgets=[{"ratio": 0.7}])
    with workshop.bench.write() as session:
        before = len(jobs.live(session))
    cancel(workshop, job_id)
    workshop.play(job_id)
    with workshop.bench.write() as session:
        assert len(jobs.live(session)) == before - 1
    assert further_ids(workshop, job_id) == []


def cancel(workshop: Workshop, job_id: str) -> None:
    with workshop.bench.write() as session:
        assert request_cancel(session, job_id)
    workshop.bench.messages.append(("advance", job_id))
