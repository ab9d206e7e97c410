"""What keeps `secateur up` from coming up is one sentence that says what to change."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from api.cli.main import main
from api.cli.stack import tell
from api.stack.config import StackConfig
from api.stack.errors import DatabaseUnavailable, HomeUnusable, NotYet
from api.stack.home import Home, explained
from api.stack.migrate import main as migration
from api.stack.migrate import migrate, sentence
from api.stack.probe import TOKEN_VARIABLE, probe_environment
from api.stack.valkey import EmbeddedValkey
from jobs.database import make_engine
from jobs.migrations import upgrade


def file_in_the_way(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return file_in_the_way(folder) / "home"


def read_only(folder: Path) -> Path:
    return Path("/proc/secateur/home")


def without_a_log_folder(folder: Path) -> Path:
    (folder / "logs").touch()
    return folder


def links_in_a_circle(folder: Path) -> Path:
    (folder / "home").symlink_to(folder / "home")
    return folder / "home"


def lock_is_a_folder(folder: Path) -> Path:
    (folder / "up.lock").mkdir()
    return folder


def broker_is_a_file(folder: Path) -> Path:
    (folder / "valkey").touch()
    return folder


def address_is_a_folder(folder: Path) -> Path:
    (folder / "valkey.json").mkdir()
    return folder


HOMES = (
    file_in_the_way,
    below_a_file,
    read_only,
    without_a_log_folder,
    links_in_a_circle,
    lock_is_a_folder,
)


@pytest.mark.parametrize("make", HOMES)
def test_an_impossible_home_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path]
) -> None:
    home = str(make(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["up", "--home", home, "--port", "0"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: home must be a folder")
    assert "--home" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("make", [broker_is_a_file, address_is_a_folder])
def test_a_home_without_room_for_the_broker_is_named(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    home = make(tmp_path)
    with pytest.raises(HomeUnusable, match=f"home must be a folder .*{home}/"), explained(home):
        EmbeddedValkey(Home(home)).prepare()


def database(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / "secateur.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")
    return path


def test_a_newer_database_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = database(tmp_path, monkeypatch)
    upgrade(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
        connection.commit()
    words = r"must be one up to \d+, but got 0099, .* start the version that made it, or name"
    with pytest.raises(DatabaseUnavailable, match=words):
        migrate()


@pytest.mark.parametrize("damage", [b"this is no database" * 300, None])
def test_a_damaged_database_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    path = database(tmp_path, monkeypatch)
    upgrade(f"sqlite:///{path}")
    content = path.read_bytes()
    path.write_bytes(damage or content[:100] + b"\xff" * (len(content) - 100))
    with pytest.raises(DatabaseUnavailable, match="one that can be read, but .*: put a backup in"):
        migrate()


def test_a_database_without_room_is_named(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'secateur.db'}")
    with engine.begin() as connection:
        connection.execute(text("PRAGMA max_page_count = 1"))
        with pytest.raises(OperationalError) as refused:
            connection.execute(text("CREATE TABLE more (id INTEGER)"))
    engine.dispose()
    assert "must have room, but database or disk is full: free some" in sentence(refused.value)


def test_a_database_that_is_up_to_date_is_used_while_another_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = database(tmp_path, monkeypatch)
    upgrade(f"sqlite:///{path}")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        started_s = time.monotonic()
        migrate()
        assert time.monotonic() - started_s < 5.0


def test_who_holds_a_database_that_must_be_migrated_is_asked_to_let_go(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'secateur.db'}"
    engine = make_engine(url, patience_s=0.01)
    with engine.begin():
        other = make_engine(url, patience_s=0.01)
        with pytest.raises(OperationalError) as refused:
            other.connect().begin()
    for each in (engine, other):
        each.dispose()
    assert "must be free while it is brought" in sentence(refused.value)


def test_the_container_that_migrates_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:////proc/none/db")
    with pytest.raises(SystemExit, match="^DATABASE_URL must name"):
        migration()


def test_a_probe_whose_enrolment_needs_a_held_database_has_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, home = database(tmp_path, monkeypatch), Home(tmp_path)
    upgrade(f"sqlite:///{path}")
    config = StackConfig(tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotYet, match="^the database: database is locked$"):
            probe_environment(config, home, patience_s=0.01)
    assert TOKEN_VARIABLE in probe_environment(config, home)


def test_a_pipe_that_nobody_reads_ends_nothing() -> None:
    source = (
        "import sys; from api.cli.stack import tell\n"
        "for number in range(3): tell('a line'); sys.stdin.readline()\n"
        "sys.exit(3)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "a line\n"
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate("\n\n\n", timeout=20)
    assert (process.returncode, said) == (3, "")


def test_a_line_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    tell("ready [at] once")
    assert capsys.readouterr().out == "ready [at] once\n"
