"""Migrations: they build what the tables say, both ways, by whoever calls them first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import alembic
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from jobs import migrations
from jobs.database import make_engine, writing
from jobs.tables import Base
from tests.jobs_tests.builders import make_job
from tests.jobs_tests.conftest import empty_postgres

ROOT = Path(__file__).parents[2]
BEFORE_CHECKS = (
    "INSERT INTO models (id, name, state, spec, weights_digest, created_at, updated_at)"
    " VALUES ('mdl_1', 'net', 'ready', '{}', '0', :at, :at)",
    "INSERT INTO datasets (id, name, state, spec, created_at, updated_at)"
    " VALUES ('dat_1', 'data', 'ready', '{}', :at, :at)",
    "INSERT INTO jobs (id, state, attempt, version, event_count, spec, model_id, dataset_id,"
    " stop_requested, cancel_requested, created_at, updated_at)"
    " VALUES (:job, 'queued', 1, 0, 0, '{}', 'mdl_1', 'dat_1', false, false, :at, :at)",
    "INSERT INTO devices (id, name, state, drain_requested, labels, capabilities, secret_sha256,"
    " created_at) VALUES ('dev_1', 'board', 'online', false, '{}', '{}', '0', :at)",
    "INSERT INTO skeletons (digest, size, location, created_at) VALUES ('a', 1, 'a', :at)",
    "INSERT INTO requests (id, job_id, purpose, skeleton_digest, reference_digest, selector,"
    " target, settings, state, attempt, created_at)"
    " VALUES (:request, :job, 'dense', 'a', 'a', 'any', '{}', '{}', 'done', 1, :at)",
    "INSERT INTO measurements (id, request_id, job_id, device_id, attempt, lease_token,"
    " skeleton_digest, reference_digest, target_key, kind, counted, created_at)"
    " VALUES (:measurement, :request, :job, 'dev_1', 1, 't', 'a', 'a', 'k', 'strict', true, :at)",
)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a database that holds nothing yet."""
    if request.param == "sqlite":
        engine = make_engine(f"sqlite:///{tmp_path / 'secateur.db'}")
    else:
        engine = make_engine(empty_postgres(request.getfixturevalue("postgres_url")))
    yield engine
    engine.dispose()


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def test_they_build_exactly_what_the_tables_say(engine: Engine) -> None:
    migrations.upgrade(url_of(engine))
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_they_go_down_to_nothing_and_up_again(engine: Engine) -> None:
    migrations.upgrade(url_of(engine))
    migrations.downgrade(url_of(engine), "base")
    assert tables(engine) == set()
    migrations.upgrade(url_of(engine))
    assert tables(engine) == set(Base.metadata.tables)


def test_a_second_upgrade_keeps_the_data(engine: Engine) -> None:
    migrations.upgrade(url_of(engine))
    with writing(engine).begin() as session:
        job_id = make_job(session).id
    migrations.upgrade(url_of(engine))
    with engine.connect() as connection:
        found = connection.execute(Base.metadata.tables["jobs"].select()).one()
    assert found.id == job_id


def test_what_was_measured_before_there_were_checks_is_kept(engine: Engine) -> None:
    migrations.upgrade(url_of(engine), "0001")
    at, ids = "2026-01-01 12:00:00", {"job": "job_1", "request": "req_1", "measurement": "mea_1"}
    with engine.begin() as connection:
        for statement in BEFORE_CHECKS:
            connection.execute(text(statement), {"at": at} | ids)
    migrations.upgrade(url_of(engine))
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT m.job_id, r.job_id, r.check_id FROM measurements m, requests r")
        ).one()
    assert tuple(found) == ("job_1", "job_1", None)
    migrations.downgrade(url_of(engine), "0001")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT job_id FROM requests")).scalar_one() == "job_1"


def test_processes_that_start_together_migrate_once(engine: Engine) -> None:
    program = f"from jobs import migrations; migrations.upgrade({url_of(engine)!r})"
    command = [sys.executable, "-c", program]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert tables(engine) == set(Base.metadata.tables)


def test_the_alembic_command_works_in_a_checkout(engine: Engine) -> None:
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    environment = {"DATABASE_URL": url_of(engine), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert tables(engine) == set(Base.metadata.tables)


def test_our_folder_does_not_hide_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()
    assert alembic.__file__ is not None
    assert not Path(alembic.__file__).is_relative_to(ROOT / "alembic")


def test_layers_in_int8_of_stored_trees_are_counted(engine: Engine) -> None:
    migrations.upgrade(url_of(engine), "0006")
    with writing(engine).begin() as session:
        job_id = make_job(session).id
    plans = {"a": '{"widths": {}, "int8": ["x", "y"]}', "b": '{"widths": {}}', "c": None}
    insert = text(
        "INSERT INTO candidates (job_id, digest, level, origin, plan, kept)"
        " VALUES (:job, :digest, 1, 'cut', :plan, false)"
    )
    with engine.begin() as connection:
        for digest, plan in plans.items():
            connection.execute(insert, {"job": job_id, "digest": digest, "plan": plan})
    migrations.upgrade(url_of(engine))
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT digest, int8_layers, version FROM candidates ORDER BY digest")
        ).all()
    assert [tuple(row) for row in rows] == [("a", 2, 0), ("b", 0, 0), ("c", 0, 0)]
