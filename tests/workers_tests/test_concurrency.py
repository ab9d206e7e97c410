"""Steps of one job that run at the same time, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from jobs import migrations, status
from jobs.database import make_engine
from jobs.repository import tasks
from jobs.states import JobState, TaskState
from tests.jobs_tests.conftest import empty_postgres
from tests.jobs_tests.postgres import postgres_server
from tests.workers_tests.bench import Bench, make_bench
from tests.workers_tests.test_decision import add_job, look
from workers.library import Library
from workers.running import run_task
from workers.snapshot import take
from workers.work import Done, Work

MEETING_S = 0.5


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A context on an empty database of each kind."""
    made = make_bench(tmp_path)
    if request.param == "postgresql":
        url = empty_postgres(request.getfixturevalue("postgres_url"))
        made = Bench(made.settings.model_copy(update={"database_url": url}), make_engine(url))
    migrations.upgrade(made.settings.database_url)
    yield made
    made.close()


def test_tasks_that_end_together_wake_their_job(bench: Bench) -> None:
    """Each commits when all three are about to, or when the others wait for what it has locked."""
    job_id, count = add_job(bench), 3
    with bench.write() as session:
        ids = [tasks.add(session, job_id, "score", key, {}).id for key in "abc"]
    end, meeting, thread = threading.Barrier(count), threading.Barrier(count), threading.local()

    def work(work: Work) -> Done:
        end.wait(10)
        thread.has_worked = True
        return Done({"loss": 0.5})

    def meet(session: Session) -> None:
        if getattr(thread, "has_worked", False):
            with suppress(threading.BrokenBarrierError):
                meeting.wait(MEETING_S)

    def run(task_id: str) -> None:
        run_task(bench.context, Library(bench.context), task_id, handlers={"score": work})

    event.listen(bench.context.writing, "before_commit", meet)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, ids))
    assert {each.state for each in look(bench, job_id).tasks.values()} == {TaskState.DONE}
    assert ("advance", job_id) in bench.messages


def test_commit_between_two_reads_of_a_snapshot_is_not_seen(bench: Bench) -> None:
    job_id = add_job(bench)
    with bench.context.read() as session:
        before = take(session, job_id)
        with bench.write() as writing:
            tasks.add(writing, job_id, "score", "late", {})
            status.request_stop(writing, job_id)
        after = take(session, job_id)
    assert before is not None
    assert after is not None
    assert (after.job.stop_requested, after.tasks) == (False, {})
    now = look(bench, job_id)
    assert (now.job.stop_requested, set(now.tasks)) == (True, {"late"})


def test_cancel_waits_for_the_end_of_a_task_and_takes_nothing_from_it(bench: Bench) -> None:
    """In any order of locks but one, the two would wait for each other."""
    job_id = add_job(bench)
    with bench.write() as session:
        task_id = tasks.add(session, job_id, "score", "a", {}).id
    cancelled = threading.Thread(target=lambda: cancel(bench, job_id))
    thread = threading.local()

    def work(work: Work) -> Done:
        thread.has_worked = True
        return Done({"loss": 0.5})

    def start(session: Session) -> None:
        if getattr(thread, "has_worked", False) and cancelled.ident is None:
            cancelled.start()
            cancelled.join(MEETING_S)

    event.listen(bench.context.writing, "before_commit", start)
    run_task(bench.context, Library(bench.context), task_id, handlers={"score": work})
    cancelled.join(10)
    after = look(bench, job_id)
    assert after.job.state == JobState.CANCELLED
    assert after.tasks["a"].state == TaskState.DONE


def cancel(bench: Bench, job_id: str) -> None:
    with bench.write() as session:
        status.request_cancel(session, job_id)
