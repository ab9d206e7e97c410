"""Tasks run under their lease; what they hand back is kept only by the run that still holds it."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from jobs import status
from jobs.repository import tasks
from jobs.states import JobState, TaskState
from jobs.tables import Task
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_decision import add_job, look
from tests.workers_tests.workshop import Workshop
from workers.library import Library
from workers.running import MAX_CRASHES, run_task
from workers.tasks import HANDLERS
from workers.tasks.finetune import finetune
from workers.work import Again, Done, Handler, Work

SHORT_S = 0.005


@pytest.fixture
def job_id(bench: Bench) -> str:
    return add_job(bench)


def add_task(bench: Bench, job_id: str, kind: str = "score", **payload: Any) -> str:
    with bench.write() as session:
        return tasks.add(session, job_id, kind, f"{kind}:x", payload).id


def run(bench: Bench, task_id: str, handler: Handler | None = None) -> Task:
    handlers = HANDLERS if handler is None else {"score": handler}
    run_task(bench.context, Library(bench.context), task_id, handlers=handlers)
    with bench.context.read() as session:
        task = tasks.find(session, task_id)
    if task is None:
        raise LookupError(task_id)
    return task


def test_unknown_task_is_left_alone(bench: Bench) -> None:
    run_task(bench.context, Library(bench.context), "tsk_gone")
    assert bench.messages == []


def test_task_that_another_worker_holds_is_left_alone(bench: Bench, job_id: str) -> None:
    task_id = add_task(bench, job_id)
    with bench.write() as session:
        tasks.claim(session, task_id, bench.context.clock(), 60.0)
    task = run(bench, task_id)
    assert (task.state, task.attempt) == (TaskState.RUNNING, 1)
    assert bench.messages == []


def test_task_of_a_dead_worker_is_taken_over(bench: Bench, job_id: str) -> None:
    task_id = add_task(bench, job_id)
    with bench.write() as session:
        tasks.claim(session, task_id, bench.context.clock() - timedelta(seconds=90), 60.0)
    assert run(bench, task_id).attempt == 2


def test_task_that_raises_fails_with_the_error_and_then_its_job(bench: Bench, job_id: str) -> None:
    task = run(bench, add_task(bench, job_id, plan={"no": "plan"}))
    assert task.state == TaskState.FAILED
    assert task.error
    assert bench.take_messages() == [("advance", job_id)]


def test_result_is_kept_and_wakes_the_job(bench: Bench, job_id: str) -> None:
    task = run(bench, add_task(bench, job_id), lambda work: Done({"loss": 0.5}))
    assert (task.state, task.result) == (TaskState.DONE, {"loss": 0.5})
    assert bench.take_messages() == [("advance", job_id)]


def test_slice_goes_back_as_pending_with_its_payload_and_is_sent_again(
    bench: Bench, job_id: str
) -> None:
    task_id = add_task(bench, job_id, step=0)
    for slices in (1, 2):
        task = run(bench, task_id, lambda work: Again({"step": work.payload["step"] + 10}))
        assert task.state == TaskState.PENDING
        assert task.payload == {"step": 10 * slices, "slices": slices}
        assert bench.take_messages() == [("run_task", task_id), ("advance", job_id)]


@pytest.mark.parametrize("outcome", [Done({"loss": 0.5}), Again({"step": 1})])
def test_run_that_lost_its_lease_changes_nothing(
    bench: Bench, job_id: str, outcome: Done | Again
) -> None:
    task_id = add_task(bench, job_id)

    def slow(work: Work) -> Done | Again:
        bench.now = work.context.clock() + timedelta(hours=1)
        with bench.write() as session:
            tasks.claim(session, task_id, bench.now, 60.0)
        return outcome

    task = run(bench, task_id, slow)
    assert (task.state, task.attempt) == (TaskState.RUNNING, 2)
    assert (task.result, task.payload) == (None, {})
    assert ("run_task", task_id) not in bench.take_messages()


def test_database_that_is_away_is_not_the_task_s_failure(bench: Bench, job_id: str) -> None:
    def unlucky(work: Work) -> Done:
        raise OperationalError("SELECT 1", {}, Exception("database is locked"))

    task_id = add_task(bench, job_id)
    with pytest.raises(OperationalError):
        run(bench, task_id, unlucky)
    with bench.context.read() as session:
        task = tasks.find(session, task_id)
    assert task is not None
    assert task.state == TaskState.RUNNING


@pytest.mark.parametrize("end", ["cancelled", "cancel_requested"])
def test_task_of_a_job_that_has_ended_is_not_run(bench: Bench, job_id: str, end: str) -> None:
    task_id = add_task(bench, job_id)
    with bench.write() as session:
        if end == "cancelled":
            status.transition(session, job_id, JobState.QUEUED, JobState.CANCELLED, 1)
        else:
            status.request_cancel(session, job_id)
    assert run(bench, task_id).error == "the job has ended"


@pytest.mark.parametrize(("slices", "gives_up"), [(0, True), (3, False)])
def test_task_that_kills_its_workers_is_given_up_but_slices_do_not_count(
    bench: Bench, job_id: str, slices: int, gives_up: bool
) -> None:
    task_id = add_task(bench, job_id, slices=slices)
    with bench.write() as session:
        session.execute(update(Task).values(attempt=MAX_CRASHES))
    words = f"its worker died {MAX_CRASHES} times while it ran score"
    assert (run(bench, task_id).error == words) is gives_up


def test_failed_score_costs_only_its_candidate(bench: Bench, job_id: str) -> None:
    run(bench, add_task(bench, job_id, plan={}))
    (task,) = look(bench, job_id).tasks.values()
    assert task.state == TaskState.FAILED
    assert look(bench, job_id).job.state == JobState.QUEUED


@pytest.fixture(scope="module")
def tuning(workshop: Workshop) -> Work:
    """The fine-tuning of a finalist, not begun."""
    job_id = workshop.submit(finetune={"steps": 30, "batch_size": 16})
    workshop.play(job_id, until=lambda: bool(workshop.tasks(job_id, "finetune")))
    (task,) = workshop.tasks(job_id, "finetune")
    return Work(workshop.bench.context, workshop.library, workshop.snapshot(job_id), task.payload)


def test_finetuning_in_slices_gives_the_same_bits_as_in_one_go(
    workshop: Workshop, tuning: Work
) -> None:
    store = workshop.bench.context.store
    whole = finetune(tuning)
    assert isinstance(whole, Done)
    wanted = store.get(whole.result["weights"])
    slices, outcome = 0, finetune(tuning, slice_s=SHORT_S)
    while isinstance(outcome, Again):
        slices += 1
        again = Work(tuning.context, tuning.library, tuning.snapshot, outcome.payload)
        outcome = finetune(again, slice_s=SHORT_S)
    assert slices >= 2
    assert outcome.result == whole.result
    assert store.get(outcome.result["weights"]) == wanted


def test_lease_of_a_long_task_is_renewed_while_it_runs(bench: Bench, job_id: str) -> None:
    task_id = add_task(bench, job_id)
    bench.settings = bench.settings.model_copy(update={"task_lease_s": 0.3})
    context = replace(bench.context, settings=bench.settings)
    seen = []

    def slow(work: Work) -> Done:
        for _ in range(2):
            time.sleep(0.3)
            with work.context.read() as session:
                seen.append(tasks.expired(session, work.context.clock()))
        return Done({"loss": 1.0})

    run_task(context, Library(context), task_id, handlers={"score": slow})
    assert seen == [[], []]


def test_result_that_json_cannot_hold_fails_the_task_with_advice(
    bench: Bench, job_id: str
) -> None:
    task = run(bench, add_task(bench, job_id), lambda work: Done({"loss": float("nan")}))
    assert task.state == TaskState.FAILED
    assert "learning_rate" in (task.error or "")
