import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from api.stack import children
from api.stack.children import ChildSpec
from api.stack.supervisor import Supervisor, delay_s

SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
)
PARENT = (
    "import subprocess, sys, time;"
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
    " start_new_session=True).pid, flush=True); time.sleep(60)"
)
Spec = Callable[..., ChildSpec]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def supervisor(told: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(told.append)
    yield supervisor
    supervisor.stop()


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    def make(name: str, source: str, stop_s: float = 5.0) -> ChildSpec:
        command = (sys.executable, "-c", source)
        return ChildSpec(name, command, tmp_path / f"{name}.log", stop_s=stop_s)

    return make


def tick_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition must come true in time")
        supervisor.tick()
        time.sleep(0.02)


def test_a_killed_child_is_started_again(
    supervisor: Supervisor, spec: Spec, told: list[str]
) -> None:
    supervisor.start(spec("api", SLEEP))
    first = supervisor.running()["api"]
    os.kill(first, signal.SIGKILL)
    tick_until(supervisor, lambda: supervisor.running().get("api", first) != first)
    assert "api ended (signal 9)" in told[0]


def test_a_child_that_keeps_dying_is_told_of_three_times(
    supervisor: Supervisor, spec: Spec, told: list[str]
) -> None:
    supervisor.start(spec("worker", "raise SystemExit(3)"))
    tick_until(supervisor, lambda: len(told) == 3)
    assert "keeps ending (status 3)" in told[-1]
    assert supervisor.deaths("worker") == 3
    assert supervisor.deaths("api") == 0


def test_the_pause_between_starts_grows_to_a_limit() -> None:
    assert [delay_s(deaths) for deaths in (1, 2, 3, 20)] == [0.2, 0.4, 0.8, 10.0]


def test_children_stop_in_the_given_order(tmp_path: Path, told: list[str], spec: Spec) -> None:
    supervisor = Supervisor(told.append)
    log = tmp_path / "order"
    source = (
        "import signal, sys, time, pathlib\n"
        "def end(*_):\n"
        "    with pathlib.Path({log!r}).open('a') as file: file.write({name!r} + ' ')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('listening', flush=True)\n"
        "time.sleep(60)\n"
    )
    names = ("valkey", "api", "worker-0", "worker-1")
    for name in names:
        supervisor.start(spec(name, source.format(log=str(log), name=name)))
    logs = [tmp_path / f"{name}.log" for name in names]
    tick_until(supervisor, lambda: all(path.read_text() for path in logs))
    supervisor.stop(("worker", "api", "valkey"))
    ended = log.read_text().split()
    assert sorted(ended[:2]) == ["worker-0", "worker-1"]
    assert ended[2:] == ["api", "valkey"]


def test_a_stubborn_child_is_killed(tmp_path: Path, spec: Spec, told: list[str]) -> None:
    supervisor = Supervisor(told.append)
    supervisor.start(spec("worker", STUBBORN, stop_s=0.2))
    tick_until(supervisor, lambda: bool((tmp_path / "worker.log").read_text()))
    process = psutil.Process(supervisor.running()["worker"])
    supervisor.stop()
    assert not process.is_running()


def test_descendants_in_other_groups_are_ended_too(
    tmp_path: Path, spec: Spec, told: list[str]
) -> None:
    supervisor = Supervisor(told.append)
    supervisor.start(spec("probe", PARENT))
    tick_until(supervisor, lambda: (tmp_path / "probe.log").read_text().endswith("\n"))
    grandchild = psutil.Process(int((tmp_path / "probe.log").read_text()))
    supervisor.stop()
    tick_until(supervisor, lambda: gone(grandchild))


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_run_looks_after_children_until_told_to_stop(
    supervisor: Supervisor, spec: Spec, told: list[str]
) -> None:
    supervisor.start(spec("worker", "raise SystemExit(3)"))
    supervisor.run(lambda: bool(told), interval_s=0.01)
    assert "worker ended" in told[0]


def test_a_long_log_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    with log.open("wb") as file:
        file.truncate(children.LOG_LIMIT + 1)
    children.make_room(log)
    assert [path.name for path in tmp_path.iterdir()] == ["api.log.1"]


def test_the_descendants_of_nobody_are_none() -> None:
    assert children.descendants_of(2**22 + 1) == []
