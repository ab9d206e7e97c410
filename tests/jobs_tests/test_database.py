"""Engines and sessions: who may write when, and that times and foreign keys hold."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine, QueuePool, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, StatementError
from sqlalchemy.orm import Session, sessionmaker

from jobs import migrations, status
from jobs.artifacts import Stored
from jobs.database import (
    be_impatient,
    is_busy,
    make_engine,
    parse_url,
    reading,
    sessions,
    writing,
)
from jobs.repository import artifacts, events, jobs
from jobs.settings import Settings
from jobs.states import JobState
from tests.jobs_tests.builders import NOON, make_job, make_model

WRITERS, JOBS_EACH = 4, 30
WAY = (
    JobState.QUEUED,
    JobState.PREPARING,
    JobState.SEARCHING,
    JobState.FINETUNING,
    JobState.VERIFYING,
    JobState.SUCCEEDED,
)


def advance_jobs(url: str, job_ids: list[str]) -> None:
    """Moves each job through all its states, one transaction a step, as a worker would."""
    engine = make_engine(url)
    factory = writing(engine)
    for job_id in job_ids:
        for before, after in zip(WAY, WAY[1:], strict=False):
            with factory.begin() as session:
                if not status.transition(session, job_id, before, after, 1):
                    raise LookupError(f"{job_id} must be {before}, but is not")
    engine.dispose()


def race_for_jobs(url: str, job_ids: list[str], wins: multiprocessing.Queue[int]) -> None:
    """Tries to be the one that takes each job."""
    engine, won = make_engine(url), 0
    factory = writing(engine)
    for job_id in job_ids:
        with factory.begin() as session:
            won += status.transition(session, job_id, JobState.QUEUED, JobState.PREPARING, 1)
    wins.put(won)
    engine.dispose()


def queued_jobs(url: str, count: int) -> list[str]:
    engine = make_engine(url)
    with writing(engine).begin() as session:
        ids = [make_job(session).id for _ in range(count)]
    engine.dispose()
    return ids


def test_four_processes_change_150_states_each_and_none_is_lost_or_refused(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'secateur.db'}"
    migrations.upgrade(url)
    ids = queued_jobs(url, WRITERS * JOBS_EACH)
    context = multiprocessing.get_context("spawn")
    shares = [ids[first::WRITERS] for first in range(WRITERS)]
    workers = [context.Process(target=advance_jobs, args=(url, share)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * WRITERS
    engine = make_engine(url)
    with writing(engine)() as session:
        assert jobs.counts(session)[JobState.SUCCEEDED] == len(ids)
        for job_id in ids:
            told = [event.data["to"] for event in events.after(session, job_id, 0)]
            assert told == list(WAY)
    engine.dispose()


@pytest.mark.usefixtures("factory")  # which deletes the jobs afterwards
def test_of_two_processes_that_want_the_same_job_one_gets_it(database_url: str) -> None:
    ids = queued_jobs(database_url, 50)
    context = multiprocessing.get_context("spawn")
    wins: multiprocessing.Queue[int] = context.Queue()
    racers = [
        context.Process(target=race_for_jobs, args=(database_url, ids, wins)) for _ in range(2)
    ]
    for racer in racers:
        racer.start()
    assert wins.get(timeout=60) + wins.get(timeout=60) == len(ids)
    for racer in racers:
        racer.join()
    wins.close()
    wins.join_thread()


@pytest.fixture
def readers(factory: sessionmaker[Session]) -> Iterator[sessionmaker[Session]]:
    """Reading sessions beside the writing ones."""
    made = reading(factory)
    yield made
    made.kw["bind"].dispose()


class TestSessions:
    def test_a_reading_session_cannot_write(self, readers: sessionmaker[Session]) -> None:
        with readers() as session, pytest.raises(DBAPIError, match="read-?only"):
            make_model(session)

    def test_a_reading_session_sees_what_was_committed(
        self, factory: sessionmaker[Session], readers: sessionmaker[Session]
    ) -> None:
        with readers() as session:
            assert jobs.live(session) == []
        with factory.begin() as session:
            make_job(session)
        with readers() as session:
            assert len(jobs.live(session)) == 1

    def test_readers_do_not_wait_for_a_writer(
        self, factory: sessionmaker[Session], readers: sessionmaker[Session]
    ) -> None:
        with factory() as writer:
            make_job(writer)
            with readers() as reader:
                assert jobs.live(reader) == []

    def test_readers_need_none_of_the_writers_connections(
        self, factory: sessionmaker[Session], readers: sessionmaker[Session]
    ) -> None:
        engine: Engine = factory.kw["bind"]
        pool = engine.pool
        assert isinstance(pool, QueuePool)
        with ExitStack() as held:
            for _ in range(pool.size() + 10):
                held.enter_context(closing(engine.raw_connection()))
            with readers() as reader:
                assert jobs.live(reader) == []

    def test_a_row_stays_readable_after_the_commit(self, factory: sessionmaker[Session]) -> None:
        with factory.begin() as session:
            job = make_job(session)
        assert job.state == JobState.QUEUED

    def test_foreign_keys_hold(self, session: Session) -> None:
        with pytest.raises(IntegrityError):
            artifacts.record(session, "job_x", "plan.json", Stored("a", 1, "0" * 64))

    def test_times_come_back_aware_and_in_utc(self, factory: sessionmaker[Session]) -> None:
        tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
        with factory.begin() as session:
            model = make_model(session, now=tokyo)
        with factory() as session:
            found = session.get_one(type(model), model.id).created_at
        assert (found, found.utcoffset()) == (NOON, timedelta(0))

    def test_a_naive_time_is_refused(self, session: Session) -> None:
        naive = datetime(2026, 1, 1)  # noqa: DTZ001
        with pytest.raises(StatementError, match="time must be aware, but got the naive 2026"):
            make_model(session, now=naive)


def test_sqlite_is_set_up_for_many_processes(tmp_path: Path) -> None:
    factory = sessions(Settings(home=tmp_path / "new" / "home"))
    with factory() as session:
        asked = [
            session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "foreign_keys")
        ]
        assert asked == ["wal", 1]
        assert session.scalar(text("PRAGMA busy_timeout")) == 30_000
    factory.kw["bind"].dispose()


def wait_briefly(session: Session) -> None:
    """Waits as long as its engine says."""
    session.connection()


@pytest.mark.parametrize("begin", [wait_briefly, be_impatient])
def test_a_writer_whose_patience_ends_is_told_that_the_database_is_busy(
    factory: sessionmaker[Session], database_url: str, begin: Callable[[Session], None]
) -> None:
    patience_s = 0.05 if begin is wait_briefly else 30.0
    engine = make_engine(database_url, patience_s=patience_s)
    with factory.begin() as session:
        job_id = make_job(session).id

    def write(session: Session) -> None:
        begin(session)
        status.request_stop(session, job_id)

    with factory() as first, writing(engine)() as second:
        status.request_stop(first, job_id)
        started_s = time.monotonic()
        with pytest.raises(OperationalError) as refused:
            write(second)
        assert time.monotonic() - started_s < 5.0
    assert is_busy(refused.value)
    engine.dispose()


def test_what_is_not_there_is_not_busy(session: Session) -> None:
    with pytest.raises(DBAPIError) as refused:
        session.execute(text("SELECT 1 FROM nowhere"))
    assert not is_busy(refused.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_uses_the_installed_driver(scheme: str) -> None:
    assert parse_url(f"{scheme}://u:p@host/db").drivername == "postgresql+psycopg"


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(ValueError, match="must be for sqlite or postgresql, but got mysql"):
        parse_url("mysql://u@host/db")
