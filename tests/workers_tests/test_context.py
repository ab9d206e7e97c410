"""A worker's clock is the database's: one whose own clock is wrong steals no lease."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from jobs.repository import tasks
from jobs.settings import Settings
from jobs.states import TaskState
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_decision import add_job
from workers.context import Context, create_context
from workers.library import Library
from workers.running import run_task

THERE = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture
def context(empty_database: Path, tmp_path: Path) -> Iterator[Context]:
    """The context of a machine whose clock is many years ahead of the database's."""
    home = tmp_path / "there"
    home.mkdir()
    shutil.copy(empty_database, home / "secateur.db")
    url = f"sqlite:///{home / 'secateur.db'}"
    made = create_context(Settings(home=home, database_url=url), lambda *_: None)
    engines = [sessions.kw["bind"] for sessions in (made.writing, made.reading)]

    def set_clock(connection: Any, _record: Any) -> None:
        connection.create_function("strftime", 2, lambda *_: "2001-02-03 04:05:06.000")

    for engine in engines:
        event.listen(engine, "connect", set_clock)
    yield made
    for engine in engines:
        engine.dispose()


def test_its_clock_is_the_database_s(context: Context) -> None:
    assert context.clock() == THERE


def test_a_task_that_another_worker_holds_is_left_alone(context: Context) -> None:
    bench = Bench(context.settings, context.writing.kw["bind"])
    job_id = add_job(bench)
    with context.unit() as unit:
        task_id = tasks.add(unit.session, job_id, "score", "score:x", {}).id
        tasks.claim(unit.session, task_id, context.clock(), 60)
    run_task(context, Library(context), task_id, handlers={})
    with context.read() as session:
        task = tasks.find(session, task_id)

    assert task is not None
    assert (task.state, task.attempt) == (TaskState.RUNNING, 1)
