"""Tasks run under their lease; what they hand back is kept only by the run that still holds it."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import update

from jobs import removal, status
from jobs.artifacts import job_file_name
from jobs.repository import tasks
from jobs.states import JobState, TaskState
from jobs.tables import Task
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_decision import add_job, look
from tests.workers_tests.workshop import Workshop
from workers.advance import advance
from workers.library import Library
from workers.phases.facts import finalists
from workers.phases.finetuning import finetuning_now
from workers.running import MAX_CRASHES, run_task
from workers.tasks import HANDLERS
from workers.tasks.finetune import finetune, next_slice_s
from workers.work import Again, Done, Handler, Work

SHORT_S = 0.005
MOST_SLICES = 100


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


def test_task_of_a_job_that_has_ended_is_not_run(bench: Bench, job_id: str) -> None:
    task_id = add_task(bench, job_id)
    with bench.write() as session:
        status.transition(session, job_id, JobState.QUEUED, JobState.CANCELLED, 1)
    task = run(bench, task_id)
    assert (task.error, task.attempt) == ("the job has ended", 0)


def test_result_of_a_task_whose_job_was_cancelled_meanwhile_is_dropped(
    bench: Bench, job_id: str
) -> None:
    def slow(work: Work) -> Done:
        with bench.write() as session:
            status.request_cancel(session, job_id)
        return Done({"loss": 0.5})

    task = run(bench, add_task(bench, job_id), slow)
    assert (task.state, task.result) == (TaskState.FAILED, None)
    assert bench.take_messages() == []


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


def test_a_training_that_is_short_of_time_comes_to_fewer_steps_and_shows_them(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = workshop.submit(
        finetune={"steps": 100_000, "batch_size": 16}, constraints={"time_limit_s": 100}
    )
    workshop.play(job_id, until=lambda: bool(workshop.tasks(job_id, "finetune")))
    (task,), snapshot = workshop.tasks(job_id, "finetune"), workshop.snapshot(job_id)
    work = Work(workshop.bench.context, workshop.library, snapshot, task.payload)
    began = datetime.fromisoformat((snapshot.search_state or {})["began"])
    monkeypatch.setattr(workshop.bench, "now", began + timedelta(seconds=80))
    first = finetune(work, slice_s=SHORT_S)
    assert isinstance(first, Again)
    assert first.payload["comes_to"] == 100_000  # how long a step takes is not known yet
    monkeypatch.setattr(workshop.bench, "now", began + timedelta(seconds=85))
    again = finetune(replace(work, payload=first.payload), slice_s=SHORT_S)
    assert isinstance(again, Again)
    step, comes_to = again.payload["step"], again.payload["comes_to"]
    assert comes_to == 4 * step
    task.payload = again.payload
    shown = finetuning_now(replace(snapshot, tasks={task.key: task}), finalists(snapshot))
    assert (shown["step"], shown["steps"]) == (step, comes_to)
    last = finetune(replace(work, payload=again.payload | {"comes_to": step + 1}))
    assert isinstance(last, Done)
    assert last.result["steps"] == step + 1


def test_the_first_slices_are_short_and_the_later_ones_as_long_as_allowed() -> None:
    assert [next_slice_s({"slices": done}) for done in range(5)] == [2.0, 4.0, 8.0, 12.0, 12.0]
    assert next_slice_s({}) == next_slice_s({"slices": 0})
    assert next_slice_s({"slices": 100_000}) == 12.0


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


class Finetuning:
    """A fine-tuning task, run slice by slice, and its files in the store."""

    def __init__(self, workshop: Workshop, like: Work) -> None:
        self.workshop = workshop
        training = {"steps": 100_000, "batch_size": 16, "flip": True}
        self.job_id = workshop.submit(finetune=training)
        workshop.bench.take_messages()
        with workshop.bench.write() as session:
            self.task = tasks.add(session, self.job_id, "finetune", "finetune:x", like.payload)

    def slice(self) -> Task:
        """Runs the task until it got further, which a slow machine may need several slices for."""
        before = self.task.payload["step"]
        for _ in range(MOST_SLICES):
            self.run(partial(finetune, slice_s=SHORT_S))
            if self.task.state != TaskState.PENDING or self.task.payload["step"] > before:
                return self.task
        raise TimeoutError(f"a step must be done in {MOST_SLICES} slices")

    def run(self, handler: Handler) -> None:
        """Runs the task once."""
        context, library = self.workshop.bench.context, self.workshop.library
        run_task(context, library, self.task.id, handlers={"finetune": handler})
        with context.read() as session:
            self.task = tasks.find(session, self.task.id) or self.task

    def checkpoints(self) -> list[int]:
        """The steps of those that are there."""
        place = job_file_name(self.job_id, f"work/{self.task.payload['digest']}")
        names = self.workshop.bench.context.store.folders(place)
        stems = [name.partition(".")[0] for name in names]
        return sorted(int(stem) for stem in stems if stem.isdigit())


@pytest.fixture
def finetuning(workshop: Workshop, tuning: Work) -> Finetuning:
    """One that has not begun."""
    return Finetuning(workshop, tuning)


def test_the_last_two_checkpoints_are_kept_and_none_when_the_task_is_done(
    finetuning: Finetuning,
) -> None:
    steps = [int(finetuning.slice().payload["step"]) for _ in range(4)]
    assert finetuning.checkpoints() == steps[-2:]
    with finetuning.workshop.bench.write() as session:
        status.request_stop(session, finetuning.job_id)
    assert finetuning.slice().state == TaskState.DONE
    assert finetuning.checkpoints() == []
    weights = (finetuning.task.result or {})["weights"]
    assert finetuning.workshop.bench.context.store.exists(weights)


def test_a_stop_is_heeded_within_a_slice(
    finetuning: Finetuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[finetune.__module__], "LOOK_S", SHORT_S)
    first = int(finetuning.slice().payload["step"])

    def stopped(work: Work) -> Done | Again:
        with finetuning.workshop.bench.write() as session:
            status.request_stop(session, finetuning.job_id)
        return finetune(work, slice_s=3600)

    finetuning.run(stopped)
    assert finetuning.task.state == TaskState.DONE, finetuning.task.error
    assert first <= (finetuning.task.result or {})["steps"] < 100_000


def test_a_worker_killed_before_its_checkpoint_counts_loses_only_its_slice(
    finetuning: Finetuning,
) -> None:
    bench = finetuning.workshop.bench
    first = int(finetuning.slice().payload["step"])
    snapshot = finetuning.workshop.snapshot(finetuning.job_id)
    work = Work(bench.context, finetuning.workshop.library, snapshot, finetuning.task.payload)
    lost = finetune(work, slice_s=SHORT_S)
    assert isinstance(lost, Again)
    second = finetuning.slice()
    assert second.state == TaskState.PENDING
    assert first in finetuning.checkpoints()
    assert int(second.payload["step"]) in finetuning.checkpoints()


def test_a_worker_that_comes_late_leaves_the_checkpoints_of_its_successors(
    finetuning: Finetuning,
) -> None:
    bench = finetuning.workshop.bench
    finetuning.slice()

    def overtaken(work: Work) -> Done | Again:
        outcome = finetune(work, slice_s=SHORT_S)
        bench.now = bench.context.clock() + timedelta(hours=1)
        for _ in range(3):
            finetuning.slice()
        return outcome

    try:
        finetuning.run(overtaken)
        step = int(finetuning.task.payload["step"])
        assert step in finetuning.checkpoints()
        assert finetuning.task.state == TaskState.PENDING, finetuning.task.error
        assert int(finetuning.slice().payload["step"]) > step
    finally:
        bench.now = None


@pytest.mark.parametrize("end", [JobState.CANCELLED, JobState.FAILED])
def test_a_slice_that_outlives_its_job_leaves_nothing(
    finetuning: Finetuning, end: JobState
) -> None:
    bench, job_id = finetuning.workshop.bench, finetuning.job_id
    finetuning.slice()

    def outlived(work: Work) -> Done | Again:
        with bench.write() as session:
            status.transition(session, job_id, JobState.QUEUED, end, 1)
            session.execute(update(Task).where(Task.job_id == job_id).values(attempt=9))
        return finetune(work, slice_s=SHORT_S)

    finetuning.run(outlived)
    assert bench.context.store.folders(job_file_name(job_id, "work")) == []


def test_a_slice_whose_job_was_removed_leaves_nothing(finetuning: Finetuning) -> None:
    bench, job_id = finetuning.workshop.bench, finetuning.job_id

    def outlived(work: Work) -> Done | Again:
        with bench.write() as session:
            status.transition(session, job_id, JobState.QUEUED, JobState.CANCELLED, 1)
            removal.remove_job(session, job_id)
        return finetune(work, slice_s=SHORT_S)

    finetuning.run(outlived)
    assert job_id not in bench.context.store.folders("jobs")


def test_work_of_a_job_is_gone_when_it_has_ended(finetuning: Finetuning) -> None:
    bench, job_id = finetuning.workshop.bench, finetuning.job_id
    finetuning.slice()
    assert bench.context.store.folders(job_file_name(job_id, "work"))
    with bench.write() as session:
        status.request_cancel(session, job_id)
    advance(bench.context, finetuning.workshop.library, job_id)
    assert finetuning.workshop.has_ended(job_id)
    assert bench.context.store.folders(job_file_name(job_id, "work")) == []
