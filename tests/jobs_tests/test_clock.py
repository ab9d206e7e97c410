"""The clock that leases go by is the database's, not that of the machine that asks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from jobs import migrations, status
from jobs.columns import database_time, utc_now
from jobs.database import make_engine, writing
from jobs.repository import jobs, tasks
from tests.jobs_tests.builders import make_job

ELSEWHERE = datetime(2031, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    """A database whose clock is years ahead of this machine's."""
    url = f"sqlite:///{tmp_path / 'secateur.db'}"
    migrations.upgrade(url)
    engine = make_engine(url)

    @event.listens_for(engine, "connect")
    def set_clock(connection: Any, _record: Any) -> None:
        connection.create_function("strftime", 2, lambda *_: "2031-05-06 07:08:09.123")

    yield writing(engine)
    engine.dispose()


def test_it_is_utc_and_goes_on_within_a_transaction(session: Session) -> None:
    before = utc_now() - timedelta(seconds=1)
    first, second = database_time(session), database_time(session)

    assert before < first <= second < utc_now() + timedelta(seconds=1)
    assert first.tzinfo is UTC
    assert first.microsecond % 1_000_000 != 0 or second.microsecond != 0


def test_rows_bear_the_database_s_time(elsewhere: sessionmaker[Session]) -> None:
    with elsewhere.begin() as session:
        job_id = make_job(session).id
        task = tasks.add(session, job_id, "prepare", "prepare", {})
        status.request_stop(session, job_id)
        job = jobs.find(session, job_id)

        assert task.queued_at == ELSEWHERE
        assert job is not None
        assert job.updated_at == ELSEWHERE
