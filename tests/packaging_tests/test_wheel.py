"""The wheel, built and installed elsewhere: its contents, and that `secateur up` works from it."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"api", "jobs", "latency_probes", "search", "secateur", "workers"}
UP = ("--port", "0", "--workers", "1", "--probe-runtime", "replay")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment that shares our dependencies, but not the checkout.

    A directory named in a `.pth` is searched, while `.pth` files inside it are not read: an
    editable install next to the dependencies stays out.
    """
    environment = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--quiet", str(wheel)], check=True, capture_output=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@contextmanager
def up(installed: Path, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`secateur up` from the wheel, ready; ended at the latest when the block is left."""
    command = [str(installed / "secateur"), "up", "--home", str(home), *UP]
    with subprocess.Popen(command, cwd=installed, env=clean()) as process:
        try:
            wait_ready(home, process)
            yield process
        finally:
            process.terminate()
            process.wait(20)


def wait_ready(home: Path, process: subprocess.Popen[bytes], *, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        note = home / "up.json"
        if note.exists() and json.loads(note.read_text()).get("ready"):
            return
        time.sleep(0.1)
    raise TimeoutError("`secateur up` must become ready in time")


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_it_holds_our_packages_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_it_holds_migrations_and_dashboard(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    migrations = [path.name for path in (ROOT / "alembic/versions").glob("*.py")]
    pages = [p.relative_to(ROOT).as_posix() for p in (ROOT / "api/dashboard").rglob("*.*")]
    assert migrations
    assert pages
    assert {f"jobs/_alembic/versions/{name}" for name in migrations} <= names
    assert {page for page in pages if "__pycache__" not in page} <= names


def test_it_is_not_meant_for_a_public_index(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
        assert b"Classifier: Private :: Do Not Upload" in archive.read(metadata)


def test_the_installed_packages_are_not_those_of_the_checkout(installed: Path) -> None:
    source = (
        "import api, jobs.migrations, search\n"
        "print(api.__file__, jobs.__file__, search.__file__, jobs.migrations.folder())"
    )
    command = [str(installed / "python"), "-c", source]
    done = subprocess.run(command, cwd=installed, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed.parent)) for path in done.stdout.split())


def test_the_service_comes_up_answers_and_leaves_nothing(installed: Path, tmp_path: Path) -> None:
    with up(installed, tmp_path) as process:
        everything = [psutil.Process(process.pid)]
        everything += everything[0].children(recursive=True)
        command = [str(installed / "secateur"), "models", "list"]
        environment = clean() | {"SECATEUR_HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.stdout == "No model yet.\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert psutil.wait_procs(everything, timeout=0)[1] == []
