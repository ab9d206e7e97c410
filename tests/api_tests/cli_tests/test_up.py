"""`secateur up` as a user runs it: real processes on loopback, killed and stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from api.client import Client
from api.stack import leftovers
from api.stack.background import background
from api.stack.errors import NotReady
from api.stack.stack import is_ready

OPTIONS = ("--port", "0", "--workers", "1", "--probe-runtime", "replay")
NAMES = {"valkey", "api", "collector", "worker-0", "probe"}


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition must come true in time")
        time.sleep(0.1)


def note(home: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((home / "up.json").read_text())
    return read


def children(home: Path) -> dict[str, int]:
    return {name: child["pid"] for name, child in note(home)["children"].items()}


def all_of(home: Path) -> list[psutil.Process]:
    """The stack's process and everything below it."""
    up = psutil.Process(note(home)["pid"])
    return [up, *up.children(recursive=True)]


def device_state(url: str) -> str:
    with Client(url) as client:
        return next((device.state for device in client.devices.list()), "none")


@contextmanager
def in_the_foreground(home: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "api.cli.main", "up", "--home", str(home), *OPTIONS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        try:
            wait_until((home / "up.json").exists)
            wait_until(lambda: bool(note(home).get("ready")))
            yield up
        finally:
            up.terminate()
            up.wait(20)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A home and its stack. Nothing runs below the home at the end, whatever a test did."""
    home = tmp_path_factory.mktemp("stack")
    with in_the_foreground(home) as up:
        yield home, up
    if (home / "up.json").exists():
        leftovers.end(leftovers.left_over(note(home)))


@pytest.fixture
def stack(running: tuple[Path, subprocess.Popen[str]]) -> tuple[Path, str]:
    home, _ = running
    return home, str(note(home)["url"])


def test_everything_runs_and_the_probe_enrols(stack: tuple[Path, str]) -> None:
    home, url = stack
    assert is_ready(url)
    assert set(children(home)) == NAMES
    wait_until(lambda: device_state(url) == "online")


def is_apart(running: dict[str, int]) -> bool:
    cores = {name: os.sched_getaffinity(pid) for name, pid in running.items()}
    others = [cores[name] for name in NAMES - {"probe"}]
    return len(cores["probe"]) == 1 and all(cores["probe"].isdisjoint(each) for each in others)


def test_the_probe_keeps_a_core_to_itself(stack: tuple[Path, str]) -> None:
    home, _ = stack
    if len(os.sched_getaffinity(0)) > 1:
        wait_until(lambda: is_apart(children(home)), timeout_s=10)
        assert is_apart(children(home))
    else:
        cores = [os.sched_getaffinity(pid) for pid in children(home).values()]
        assert all(each == cores[0] for each in cores)


def test_no_secret_is_on_a_command_line(stack: tuple[Path, str]) -> None:
    home, _ = stack
    password = json.loads((home / "valkey.json").read_text())["password"]
    assert all(password not in part for process in all_of(home) for part in process.cmdline())


def test_a_second_up_on_the_same_home_says_so(stack: tuple[Path, str]) -> None:
    home, url = stack
    with pytest.raises(NotReady, match=f"already runs on .* at {url}"):
        background(home, OPTIONS).__enter__()
    assert is_ready(url)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_killed_process_is_back_soon(stack: tuple[Path, str], name: str) -> None:
    home, url = stack
    before = children(home)[name]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: children(home).get(name, before) != before)
    wait_until(lambda: is_ready(url))
    wait_until(lambda: device_state(url) == "online")


def test_a_taken_port_is_named(stack: tuple[Path, str], tmp_path: Path) -> None:
    port = httpx.URL(stack[1]).port
    with pytest.raises(NotReady, match=f"something listens on 127.0.0.1:{port}"):
        background(tmp_path, ("--port", str(port))).__enter__()


def test_a_broker_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(NotReady, match="REDIS_URL must name a running"):
        background(tmp_path, ("--port", "0", "--no-probe")).__enter__()


@pytest.mark.parametrize("url", ["mysql://here/db", "sqlite:////proc/none/db"])
def test_a_database_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(NotReady, match="DATABASE_URL must name"):
        background(tmp_path, ("--port", "0", "--no-probe")).__enter__()


def test_a_broker_from_the_environment_is_used(
    stack: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = json.loads((stack[0] / "valkey.json").read_text())
    monkeypatch.setenv("REDIS_URL", broker["url"])
    with background(tmp_path, ("--port", "0", "--no-probe", "--workers", "1")) as url:
        assert is_ready(url)
        assert set(children(tmp_path)) == {"api", "collector", "worker-0"}


def test_health_names_what_is_away(stack: tuple[Path, str]) -> None:
    command = [sys.executable, "-m", "api.stack.health"]
    good = {**os.environ, "SECATEUR_HOME": str(stack[0])}
    assert subprocess.run(command, env=good, check=False).returncode == 0
    bad = good | {"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "sqlite:////proc/none/db"}
    done = subprocess.run(command, env=bad, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "broker" in done.stderr


def test_stops_and_kills_lose_nothing_and_leave_nothing(
    running: tuple[Path, subprocess.Popen[str]],
) -> None:
    """Ctrl-C, start, `kill -9` of the supervisor, start: one home all along. The last test,
    because it ends the stack of the others."""
    home, up = running
    wait_until(lambda: device_state(note(home)["url"]) == "online")
    processes = all_of(home)
    broker = json.loads((home / "valkey.json").read_text())
    up.send_signal(signal.SIGINT)
    assert up.wait(20) == 0
    assert "Secateur is ready at http://" in (up.stdout.read() if up.stdout else "")
    _, alive = psutil.wait_procs(processes, timeout=0)
    assert alive == []
    assert not (home / "up.json").exists()

    with in_the_foreground(home) as up:
        left = {name: psutil.Process(pid) for name, pid in children(home).items()}
        up.kill()
    psutil.wait_procs([left[name] for name in NAMES - {"valkey"}], timeout=20)
    assert {name for name, process in left.items() if process.is_running()} == {"valkey"}

    with background(home, OPTIONS) as url, Client(url) as client:
        assert not left["valkey"].is_running()
        assert json.loads((home / "valkey.json").read_text()) == broker
        assert len(client.devices.list()) == 1
