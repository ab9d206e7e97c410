"""Migrations: they build what the tables say, both ways, by whoever calls them first."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import alembic
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect

from jobs import migrations
from jobs.database import make_engine, writing
from jobs.tables import Base
from tests.jobs_tests.builders import make_job
from tests.jobs_tests.conftest import empty_postgres

ROOT = Path(__file__).parents[2]


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


def test_a_wheel_carries_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    installed = tmp_path / "installed"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(installed)
    database = tmp_path / "secateur.db"
    program = (
        "from jobs import migrations; "
        f"migrations.upgrade('sqlite:///{database}'); print(migrations.folder())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert Path(shown.stdout.strip()) == installed / "jobs" / "_alembic"
    engine = make_engine(f"sqlite:///{database}")
    assert tables(engine) == set(Base.metadata.tables)
    engine.dispose()
