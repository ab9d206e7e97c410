"""What `advance` does with jobs at each moment, apart from the work itself."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from jobs import status
from jobs.repository import jobs, models, tasks
from jobs.spec import BudgetSpec, DatasetSpec, JobSpec
from jobs.states import JobState
from jobs.tables import Job
from tests.workers_tests.bench import Bench
from tests.workers_tests.nets import HERE, flat, weights
from tests.workers_tests.rows import ready_dataset
from tests.workers_tests.test_checks import add_model
from tests.workers_tests.test_decision import add_job, look
from workers.advance import advance
from workers.decision import apply
from workers.library import Library
from workers.phases import queued
from workers.running import run_task


def step(bench: Bench, job_id: str) -> None:
    advance(bench.context, Library(bench.context), job_id)


def judge(bench: Bench, *, problem: dict[str, Any] | None = None) -> None:
    with bench.write() as session:
        if problem is None:
            models.accept(session, model_id(bench), {})
        else:
            models.reject(session, model_id(bench), problem)


def model_id(bench: Bench) -> str:
    with bench.context.read() as session:
        model = models.find(session, "net")
    return model.id if model is not None else ""


def test_unknown_job_is_left_alone(bench: Bench) -> None:
    step(bench, "job_gone")
    assert bench.messages == []


def test_queued_job_waits_for_its_model_and_says_so(bench: Bench) -> None:
    job_id = add_job(bench)
    step(bench, job_id)
    job = look(bench, job_id).job
    assert (job.state, job.waiting_for) == (JobState.QUEUED, "the model net is being checked")


def test_queued_job_starts_once_its_inputs_are_ready(bench: Bench) -> None:
    job_id = add_job(bench)
    judge(bench)
    step(bench, job_id)
    after = look(bench, job_id)
    assert after.job.state == JobState.PREPARING
    assert bench.take_messages() == [("run_task", after.tasks["prepare"].id)]
    step(bench, job_id)
    assert bench.take_messages() == []


def test_job_on_a_rejected_model_fails_with_the_model_s_problem(bench: Bench) -> None:
    job_id = add_job(bench)
    judge(bench, problem={"detail": "no weights", "errors": [{"field": "a", "message": "b"}]})
    step(bench, job_id)
    job = look(bench, job_id).job
    assert job.state == JobState.FAILED
    assert job.problem is not None
    assert job.problem["detail"] == "model net: no weights"
    assert job.problem["errors"] == [{"field": "a", "message": "b"}]


def test_rejected_model_without_a_problem_still_fails_the_job(bench: Bench) -> None:
    job_id = add_job(bench)
    judge(bench, problem={})
    step(bench, job_id)
    assert "no reason was kept" in (look(bench, job_id).job.problem or {})["detail"]


def test_job_that_an_earlier_version_was_asked_to_cancel_ends(bench: Bench) -> None:
    job_id = add_job(bench)
    with bench.write() as session:
        session.execute(update(Job).values(cancel_requested=True))
    step(bench, job_id)
    assert look(bench, job_id).job.state == JobState.CANCELLED
    step(bench, job_id)
    assert bench.messages == []


def test_decision_on_a_job_that_is_cancelled_meanwhile_writes_nothing(bench: Bench) -> None:
    job_id = add_job(bench)
    judge(bench)
    before = look(bench, job_id)
    with bench.write() as session:
        status.request_cancel(session, job_id)
    apply(bench.context, before, queued.decide(before))
    after = look(bench, job_id)
    assert (after.job.state, after.tasks) == (JobState.CANCELLED, {})
    assert bench.messages == []


@pytest.mark.parametrize(
    ("kind", "state"), [("prepare", JobState.FAILED), ("score", JobState.PREPARING)]
)
def test_failed_task_fails_its_job_unless_it_only_scored(
    bench: Bench, kind: str, state: JobState
) -> None:
    job_id = add_job(bench)
    judge(bench)
    step(bench, job_id)
    with bench.write() as session:
        task = tasks.add(session, job_id, kind, f"{kind}:failing", {})
        claimed = tasks.claim(session, task.id, bench.context.clock(), 60.0)
        tasks.fail(session, task.id, claimed.attempt if claimed else 0, "it broke")
    step(bench, job_id)
    job = look(bench, job_id).job
    assert job.state == state
    if state == JobState.FAILED:
        assert (job.problem or {})["detail"] == "it broke"


def test_phase_that_cannot_decide_fails_the_job_with_the_reason(bench: Bench) -> None:
    job_id = add_job(bench)
    values = {"state": JobState.FINETUNING, "search_state": {"chosen": [{"another": "version"}]}}
    with bench.write() as session:
        session.execute(update(Job).values(values))
    step(bench, job_id)
    job = look(bench, job_id).job
    assert job.state == JobState.FAILED
    assert (job.problem or {})["title"] == "The job failed while finetuning"
    assert "a stored Chosen cannot be read" in (job.problem or {})["detail"]


def test_network_of_which_nothing_can_be_pruned_fails_with_that(bench: Bench) -> None:
    model = add_model(bench, "flat", weights(flat()))
    data = DatasetSpec(name="data", format="python", function=f"{HERE}:stripes")
    spec = JobSpec(model="net", dataset="data", budget=BudgetSpec(ratio=0.5))
    with bench.write() as session:
        models.accept(session, model, {})
        dataset = ready_dataset(session, data)
        job_id = jobs.create(session, spec, model_id=model, dataset_id=dataset.id).id
    step(bench, job_id)
    ((_, task_id),) = bench.take_messages()
    run_task(bench.context, Library(bench.context), task_id)
    step(bench, job_id)
    detail = (look(bench, job_id).job.problem or {})["detail"]
    assert "no group of this network can be pruned" in detail
