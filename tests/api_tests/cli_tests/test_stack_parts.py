import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from api.cli.serving import probe_options
from api.stack import leftovers
from api.stack.aside import aside
from api.stack.config import StackConfig, check_binding
from api.stack.cores import CorePlan, default_workers, plan_cores, threads_per_worker
from api.stack.errors import AlreadyRunning, StackError, UnsafeBinding
from api.stack.home import Home, explained
from api.stack.launcher import command_line
from api.stack.stack import StopRequest, allowed, reachable, roots
from api.stack.valkey import free_port, is_free

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition must come true in time")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("cores", "probe", "plan"),
    [
        ([0, 1], True, CorePlan(servers=(0,), probe=(1,))),
        ([7, 2, 5], True, CorePlan(servers=(2, 5), probe=(7,))),
        ([3], True, CorePlan(servers=(), probe=())),
        ([0, 1], False, CorePlan(servers=(0, 1), probe=())),
    ],
)
def test_a_probe_gets_the_last_core_to_itself(
    cores: list[int], probe: bool, plan: CorePlan
) -> None:
    assert plan_cores(cores, probe=probe) == plan


def test_there_is_a_worker_per_core_of_the_servers() -> None:
    plan = CorePlan(servers=(0, 1, 2, 3), probe=(4,))
    assert default_workers(plan) == 4
    assert threads_per_worker(plan, 2) == 2
    assert plan.all == (0, 1, 2, 3, 4)
    assert default_workers(CorePlan((), ())) == threads_per_worker(CorePlan((), ()), 3) == 1


@pytest.mark.parametrize(
    ("host", "environment", "words"),
    [
        ("0.0.0.0", {}, "REDIS_URL"),
        ("192.168.0.2", {"SECATEUR_AUTH": "on"}, "REDIS_URL"),
        ("0.0.0.0", {"REDIS_URL": "redis://elsewhere"}, "SECATEUR_AUTH"),
    ],
)
def test_a_public_address_needs_a_broker_and_keys(
    monkeypatch: pytest.MonkeyPatch, host: str, environment: dict[str, str], words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnsafeBinding, match=words):
        check_binding(host, os.environ)


def test_a_public_address_with_broker_and_keys_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    monkeypatch.setenv("SECATEUR_AUTH", "on")
    check_binding("0.0.0.0", os.environ)


def test_loopback_needs_nothing() -> None:
    check_binding("127.0.0.1", {})
    check_binding("localhost", {})


def test_malformed_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="workers must be >= 1, but got 0"):
        StackConfig(tmp_path, workers=0)
    with pytest.raises(StackError, match="port must be"):
        StackConfig(tmp_path, port=-1)
    with pytest.raises(StackError, match="allow must be"):
        StackConfig(tmp_path, allow=("os.getcwd",))
    with pytest.raises(StackError, match="data-root must be a folder"):
        StackConfig(tmp_path, data_roots=(tmp_path / "missing",))


def test_a_home_is_private_and_held_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.write_note({"pid": 7, "url": "http://127.0.0.1:1"})
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert home.note_path.stat().st_mode & 0o777 == 0o600
    with home.lock(), pytest.raises(AlreadyRunning, match=r"http://127.0.0.1:1 \(process 7\)"):
        Home(home.root).lock().__enter__()
    with home.lock():
        home.forget_note()
    assert home.read_note() == {}


@pytest.mark.parametrize(
    "note", ["{", "[]", '{"children": 3}', '{"children": {"api": 3}}', "\xff"]
)
def test_a_note_that_cannot_be_read_names_nobody(tmp_path: Path, note: str) -> None:
    home = Home(tmp_path)
    home.note_path.write_text(note, encoding="latin-1")
    assert leftovers.left_over(home.read_note()) == []


def test_a_note_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.note_path.mkdir()
    with pytest.raises(OSError, match="up.json"):
        home.write_note({"pid": 7})
    assert {path.name for path in tmp_path.iterdir()} == {"up.json", "logs"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/h/x"),
            "home must have room, but /h/x",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/h/x"), "be read and written, but /h/x"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "home must have room, but /h: No space",
        ),
        (OSError(errno.EAGAIN, "try again"), "the system must let the stack start, but: try aga"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(error: OSError, words: str) -> None:
    with pytest.raises(StackError, match=words), explained(Path("/h")):
        raise error


def test_a_call_aside_hands_back_its_result_or_its_error() -> None:
    assert aside(lambda: 7).result(10) == 7
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 // 0).result(10)


def test_a_launched_command_is_kept_to_its_cores() -> None:
    core = max(os.sched_getaffinity(0))
    source = (sys.executable, "-c", "import os; print(os.sched_getaffinity(0))")
    command = command_line(source, cores=(core,), parent=os.getpid())
    shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert shown == f"{{{core}}}\n"


def test_a_launched_command_ends_with_its_parent() -> None:
    source = (
        "import os, subprocess, sys, time; from api.stack.launcher import command_line;"
        f"child = subprocess.Popen(command_line({SLEEP!r}, cores=(), parent=os.getpid()));"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline() if parent.stdout else 0))
        wait_until(lambda: child.cmdline()[1:] == list(SLEEP[1:]))
        parent.kill()
    child.wait(10)


def test_a_launcher_whose_parent_is_gone_runs_nothing() -> None:
    command = command_line(SLEEP, cores=(), parent=1)
    assert subprocess.run(command, check=False).returncode == 128 + signal.SIGTERM


def test_a_launcher_without_a_command_explains_itself() -> None:
    command = [sys.executable, "-m", "api.stack.launcher", "any", "none", "--"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "usage" in done.stderr


def test_left_over_processes_are_found_and_ended() -> None:
    with subprocess.Popen(SLEEP) as child:
        note = {"children": leftovers.fingerprints({"worker-0": child.pid})}
        leftovers.end(leftovers.left_over(note))
        child.wait(10)
        assert leftovers.left_over(note) == []


def test_a_stubborn_left_over_is_killed() -> None:
    source = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True)"
    command = (sys.executable, "-c", f"{source}; time.sleep(60)")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        if child.stdout:
            child.stdout.readline()
        leftovers.end([psutil.Process(child.pid)], timeout_s=0.2)
        child.wait(10)


def test_another_process_with_the_same_id_is_left_alone() -> None:
    note = {"children": {"worker-0": {"pid": os.getpid(), "started": 0.0}, "api": {}}}
    assert leftovers.left_over(note) == []


def test_a_port_is_free_until_somebody_listens() -> None:
    port = free_port()
    assert is_free(port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not is_free(port)


def test_a_stop_request_is_remembered() -> None:
    stopping = StopRequest()
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        stopping.listen()
        assert not stopping()
        signal.raise_signal(signal.SIGTERM)
        assert stopping()
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])
        signal.signal(signal.SIGINT, interrupt)


def test_the_allow_list_joins_options_and_environment() -> None:
    assert allowed(("python:a:b",), "python:c:d,python:a:b") == "python:a:b,python:c:d"
    assert allowed((), "") == ""


def test_the_data_roots_join_options_and_environment(tmp_path: Path) -> None:
    assert roots((tmp_path,), f"/data:{tmp_path}") == f"{tmp_path}:/data"
    assert roots((Path("data"),), "") == str(Path.cwd() / "data")
    assert roots((), "") == ""


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("localhost", "localhost")]
)
def test_a_wildcard_address_is_reached_by_loopback(host: str, shown: str) -> None:
    assert reachable(host) == shown


def test_the_probe_of_a_private_stack_offers_the_runtime_of_the_job() -> None:
    assert probe_options("openvino") == ["--probe-runtime", "openvino"]
    offered = probe_options("auto")[1::2]
    assert {"onnxruntime", "openvino"} <= set(offered)
    assert not {"auto", "replay", "torch"} & set(offered)
