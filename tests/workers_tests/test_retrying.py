"""An error that may pass is waited out, told, and counted; any other ends what it stopped."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import update
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from jobs import status
from jobs.errors import ArtifactUnavailable
from jobs.repository import events, jobs, tasks
from jobs.states import JobState, TaskState
from jobs.tables import Job, Task
from search.errors import GraphError
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_decision import add_job, look
from tests.workers_tests.test_running import add_task, run
from workers.advance import advance
from workers.collector.sweeping import resend
from workers.library import Library
from workers.loaders.errors import DatasetError
from workers.retrying import LONGEST_S, MOST_TRIES, is_passing, pause_s
from workers.work import Again, Done, Work

FULL = OSError(errno.ENOSPC, "No space left on device")
LOCKED = OperationalError("SELECT 1", {}, Exception("database is locked"))


@pytest.fixture
def job_id(bench: Bench) -> str:
    return add_job(bench)


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "no") for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)),
        FULL,
        LOCKED,
        ArtifactUnavailable("ClientError: SlowDown"),
        BlockingIOError(errno.EAGAIN, "no process left"),
        ConnectionResetError("reset"),
        RedisConnectionError("away"),
        TimeoutError("too slow"),
    ],
    ids=repr,
)
def test_what_machines_and_servers_say_may_pass(error: Exception) -> None:
    assert is_passing(error)


@pytest.mark.parametrize(
    "error",
    [
        ArithmeticError("the training diverged"),
        DataError("INSERT", {}, Exception("out of range")),
        DatasetError("no images"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        GraphError("no"),
        OSError("image file is truncated"),
        PermissionError(errno.EACCES, "not yours"),
        RuntimeError("shapes differ"),
    ],
    ids=repr,
)
def test_what_is_wrong_with_an_upload_stays_wrong(error: Exception) -> None:
    assert not is_passing(error)


def test_error_is_judged_by_what_it_was_raised_from(bench: Bench) -> None:
    reading = DatasetError("the data set cannot be read")
    reading.__cause__ = OSError(errno.EIO, "Input/output error")
    assert is_passing(reading)


def test_pauses_double_up_to_a_limit() -> None:
    assert [pause_s(each) for each in (1, 2, 3)] == [5.0, 10.0, 20.0]
    assert pause_s(MOST_TRIES) == LONGEST_S


def stumbling(error: Exception, times: int) -> Callable[[Work], Done]:
    """Work that this error stops so many times."""
    left = iter(range(times))

    def handler(work: Work) -> Done:
        if next(left, None) is not None:
            raise error
        return Done({"loss": 0.5})

    return handler


def log_of(bench: Bench, job_id: str) -> list[str]:
    with bench.context.read() as session:
        return [event.kind for event in events.after(session, job_id, 0)]


class TestTasks:
    def test_it_waits_and_the_job_says_why(self, bench: Bench, job_id: str) -> None:
        bench.now = bench.context.clock()
        task_id, handler = add_task(bench, job_id), stumbling(FULL, 1)
        task = run(bench, task_id, handler)
        assert (task.state, task.tries) == (TaskState.PENDING, 1)
        assert task.try_at == bench.now + timedelta(seconds=pause_s(1))
        waiting = "another try of score:x in 5 s: [Errno 28] No space left on device"
        assert look(bench, job_id).job.waiting_for == waiting
        assert log_of(bench, job_id) == ["state", "retry"]

    def test_it_is_tried_when_its_time_has_come_and_not_before(
        self, bench: Bench, job_id: str
    ) -> None:
        bench.now = bench.context.clock()
        task_id, handler = add_task(bench, job_id), stumbling(FULL, 1)
        run(bench, task_id, handler)
        assert run(bench, task_id, handler).attempt == 1
        resend(bench.context)
        assert bench.take_messages() == []
        bench.now += timedelta(seconds=pause_s(1))
        resend(bench.context)
        assert bench.take_messages() == [("run_task", task_id)]
        assert run(bench, task_id, handler).state == TaskState.DONE
        job = look(bench, job_id).job
        assert (job.trouble, job.waiting_for) == (None, None)

    def test_after_the_last_try_it_fails_with_the_reason(self, bench: Bench, job_id: str) -> None:
        bench.now = bench.context.clock()
        task_id, handler = add_task(bench, job_id), stumbling(FULL, MOST_TRIES)
        for _ in range(MOST_TRIES):
            task = run(bench, task_id, handler)
            bench.now += timedelta(seconds=LONGEST_S)
        assert task.state == TaskState.FAILED
        assert task.error == f"[Errno 28] No space left on device (tried {MOST_TRIES} times)"

    def test_a_slice_that_got_through_starts_the_count_anew(
        self, bench: Bench, job_id: str
    ) -> None:
        task_id = add_task(bench, job_id)
        with bench.write() as session:
            session.execute(update(Task).values(tries=MOST_TRIES - 1))
        assert run(bench, task_id, lambda work: Again({"step": 1})).tries == 0

    def test_tries_are_not_taken_for_dead_workers(self, bench: Bench, job_id: str) -> None:
        task_id = add_task(bench, job_id)
        bench.now = bench.context.clock()
        handler = stumbling(FULL, MOST_TRIES - 1)
        for _ in range(MOST_TRIES):
            task = run(bench, task_id, handler)
            bench.now += timedelta(seconds=LONGEST_S)
        assert task.state == TaskState.DONE

    @pytest.mark.parametrize("payload", [{"slices": "many"}, {"slices": None}])
    def test_a_payload_that_cannot_be_read_fails_its_task(
        self, bench: Bench, job_id: str, payload: dict[str, object]
    ) -> None:
        task_id = add_task(bench, job_id)
        with bench.write() as session:
            session.execute(update(Task).values(payload=payload))
        assert run(bench, task_id, stumbling(FULL, 0)).state == TaskState.FAILED

    def test_a_kind_that_this_version_does_not_know_fails_its_task(
        self, bench: Bench, job_id: str
    ) -> None:
        task = run(bench, add_task(bench, job_id, kind="quantize"))
        assert (task.state, task.error) == (TaskState.FAILED, "KeyError: 'quantize'")


class TestJobs:
    @pytest.fixture
    def away(self, bench: Bench) -> Iterator[list[Exception]]:
        """Errors of the database; each meets one snapshot."""
        errors: list[Exception] = []
        bench.now = bench.context.clock()
        calls = iter(range(10_000))
        reading = bench.context.reading

        def read() -> Session:
            if errors and next(calls) % 2:  # the second session of a decision is the snapshot's
                raise errors.pop()
            return reading()

        bench.context = replace(bench.context, reading=cast("sessionmaker[Session]", read))
        yield errors
        bench.context = replace(bench.context, reading=reading)

    def test_the_decision_is_put_off_and_made_later(
        self, bench: Bench, job_id: str, away: list[Exception]
    ) -> None:
        library = Library(bench.context)
        away.append(FULL)
        advance(bench.context, library, job_id)
        job = look(bench, job_id).job
        assert (job.state, job.tries) == (JobState.QUEUED, 1)
        assert job.waiting_for == "another try in 5 s: [Errno 28] No space left on device"
        advance(bench.context, library, job_id)
        resend(bench.context)
        assert bench.take_messages() == []
        bench.now = job.try_at
        resend(bench.context)
        assert bench.take_messages() == [("advance", job_id)]
        advance(bench.context, library, job_id)
        job = look(bench, job_id).job
        assert (job.tries, job.try_at, job.trouble) == (0, None, None)
        assert job.waiting_for == "the model net is being checked"

    def test_after_the_last_try_the_job_fails_with_the_reason(
        self, bench: Bench, job_id: str, away: list[Exception]
    ) -> None:
        for _ in range(MOST_TRIES):
            away.append(LOCKED)
            advance(bench.context, Library(bench.context), job_id)
            bench.now = cast(datetime, bench.now) + timedelta(seconds=LONGEST_S)
        job = look(bench, job_id).job
        assert job.state == JobState.FAILED
        assert "database is locked" in (job.problem or {})["detail"]
        assert f"tried {MOST_TRIES} times" in (job.problem or {})["detail"]


def store(bench: Bench, **values: object) -> None:
    """What another version may have written."""
    with bench.write() as session:
        session.execute(update(Job).values(**values))


def found(bench: Bench, job_id: str) -> Job:
    with bench.context.read() as session:
        job = jobs.find(session, job_id)
    if job is None:
        raise LookupError(job_id)
    return job


class TestUnreadable:
    @pytest.mark.parametrize("spec", [{}, [], "text", {"priority": 5}])
    def test_spec_fails_its_job_with_a_problem_that_says_so(
        self, bench: Bench, job_id: str, spec: object
    ) -> None:
        store(bench, spec=spec)
        advance(bench.context, Library(bench.context), job_id)
        job = found(bench, job_id)
        assert job.state == JobState.FAILED
        detail = (job.problem or {})["detail"]
        assert detail.startswith("a stored JobSpec cannot be read by this version")

    def test_spec_fails_the_tasks_of_its_job_too(self, bench: Bench, job_id: str) -> None:
        store(bench, spec={})
        task = run(bench, add_task(bench, job_id))
        assert task.state == TaskState.FAILED
        assert "cannot be read" in (task.error or "")

    def test_result_of_a_task_fails_its_job(self, bench: Bench, job_id: str) -> None:
        task_id = add_task(bench, job_id, kind="prepare")
        with bench.write() as session:
            status.transition(session, job_id, JobState.QUEUED, JobState.PREPARING, 1)
            tasks.claim(session, task_id, bench.context.clock(), 60.0)
            tasks.finish(session, task_id, 1, {"another": "version"})
            session.execute(update(Task).values(key="prepare"))
        advance(bench.context, Library(bench.context), job_id)
        job = found(bench, job_id)
        assert job.state == JobState.FAILED
        assert "a stored Prepared cannot be read" in (job.problem or {})["detail"]

    def test_state_fails_its_job(self, bench: Bench, job_id: str) -> None:
        store(bench, state="paused")
        assert found(bench, job_id).state == "paused"
        advance(bench.context, Library(bench.context), job_id)
        assert found(bench, job_id).state == JobState.FAILED

    @pytest.mark.parametrize("values", [{"spec": {}}, {"state": "paused"}])
    def test_job_can_be_cancelled(
        self, bench: Bench, job_id: str, values: dict[str, object]
    ) -> None:
        store(bench, **values)
        with bench.write() as session:
            assert status.request_cancel(session, job_id)
        assert found(bench, job_id).state == JobState.CANCELLED
