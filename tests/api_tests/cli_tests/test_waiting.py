"""The supervisor outlives whatever keeps a child from being started again."""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from api.stack.children import ChildSpec
from api.stack.errors import NotYet
from api.stack.supervisor import Supervisor
from tests.api_tests.cli_tests.test_supervisor import tick_until

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


class Renewal:
    """A specification that cannot be made as long as `error` says so."""

    def __init__(self, spec: ChildSpec, error: BaseException | None) -> None:
        self.spec = replace(spec, renew=self)
        self.error = error
        self.statuses: list[int | None] = []

    def __call__(self, status: int | None) -> ChildSpec:
        self.statuses.append(status)
        if self.error is not None:
            raise self.error
        return self.spec


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def supervisor(told: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(told.append)
    yield supervisor
    supervisor.stop()


@pytest.fixture
def spec(tmp_path: Path) -> ChildSpec:
    return ChildSpec("probe", SLEEP, tmp_path / "logs" / "probe.log", stop_s=0.2)


@pytest.fixture(autouse=True)
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def kill(supervisor: Supervisor, name: str = "probe") -> None:
    os.kill(supervisor.running()[name], signal.SIGKILL)


def runs(supervisor: Supervisor, name: str = "probe") -> Callable[[], bool]:
    return lambda: name in supervisor.running()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotYet("the database: database is locked"), "waits for the database: database is locked"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be started: [Errno 28] No sp"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "cannot be started:"),
        (MemoryError(), "cannot be started: MemoryError"),
        (ZeroDivisionError("a fault of ours"), "cannot be started: a fault of ours"),
    ],
)
def test_what_keeps_a_child_from_starting_is_told_once_and_waited_out(
    supervisor: Supervisor, spec: ChildSpec, told: list[str], error: Exception, words: str
) -> None:
    renewal = Renewal(spec, None)
    supervisor.start(renewal.spec)
    kill(supervisor)
    renewal.error = error
    tick_until(supervisor, lambda: len(renewal.statuses) == 2)
    renewal.error = None
    tick_until(supervisor, runs(supervisor))
    assert "probe ended (signal 9)" in told[0]
    assert f"probe {words}" in told[1]
    assert told[2:] == ["probe runs now."]
    assert set(renewal.statuses) == {-signal.SIGKILL}


def test_a_child_is_renewed_before_its_first_start(
    supervisor: Supervisor, spec: ChildSpec, told: list[str]
) -> None:
    renewal = Renewal(spec, None)
    supervisor.start_when_possible(renewal.spec, lambda: False)
    assert runs(supervisor)()
    assert (renewal.statuses, told) == ([None], [])


def test_a_first_start_that_has_to_wait_holds_nobody_up(
    supervisor: Supervisor, spec: ChildSpec, told: list[str]
) -> None:
    renewal = Renewal(spec, NotYet("the database: database is locked"))
    supervisor.start_when_possible(renewal.spec, lambda: False)
    assert told == ["probe waits for the database: database is locked"]
    renewal.error = None
    tick_until(supervisor, runs(supervisor))


def test_the_other_children_are_looked_after_while_one_is_being_renewed(
    supervisor: Supervisor, spec: ChildSpec
) -> None:
    free = threading.Event()

    def slow(status: int | None) -> ChildSpec:
        free.wait(10)
        return spec

    supervisor.start(replace(spec, renew=slow))
    supervisor.start(replace(spec, name="api"))
    first = supervisor.running()["api"]
    kill(supervisor)
    tick_until(supervisor, lambda: not runs(supervisor)())
    kill(supervisor, "api")
    tick_until(supervisor, lambda: supervisor.running().get("api", first) != first)
    assert not runs(supervisor)()
    free.set()
    tick_until(supervisor, runs(supervisor))


def test_a_stop_does_not_wait_for_a_renewal(spec: ChildSpec) -> None:
    supervisor, free = Supervisor(lambda _: None), threading.Event()

    def slow(status: int | None) -> ChildSpec:
        free.wait(10)
        return spec

    started_s = time.monotonic()
    supervisor.start_when_possible(
        replace(spec, renew=slow), lambda: time.monotonic() > started_s + 0.05
    )
    supervisor.stop()
    assert time.monotonic() - started_s < 5.0
    free.set()


def test_a_log_that_cannot_be_opened_is_waited_for(
    supervisor: Supervisor, spec: ChildSpec, logs: Path, told: list[str]
) -> None:
    supervisor.start(spec)
    away = logs.rename(logs.with_name("away"))
    kill(supervisor)
    tick_until(supervisor, lambda: len(told) == 2)
    assert "probe cannot be started: [Errno 2] No such file or directory" in told[1]
    away.rename(logs)
    tick_until(supervisor, runs(supervisor))
    assert told[2] == "probe runs now."


def test_what_runs_is_noted_as_soon_as_that_is_possible_again(
    spec: ChildSpec, told: list[str]
) -> None:
    noted: list[dict[str, int]] = []
    full = False

    def note(running: dict[str, int]) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        noted.append(running)

    supervisor = Supervisor(told.append, note)
    supervisor.start(spec)
    full = True
    kill(supervisor)
    tick_until(supervisor, lambda: len(told) == 2)
    assert told[1] == "what runs cannot be noted: [Errno 28] No space left on device"
    full = False
    tick_until(supervisor, lambda: len(noted) == 2)
    assert noted[1] == supervisor.running()
    assert told[2] == "what runs is noted again."
    supervisor.stop()


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.EIO, "gone"), ValueError()])
def test_a_report_that_nobody_hears_ends_nothing(spec: ChildSpec, error: Exception) -> None:
    def deaf(line: str) -> None:
        raise error

    supervisor = Supervisor(deaf)
    supervisor.start(spec)
    first = supervisor.running()["probe"]
    kill(supervisor)
    tick_until(supervisor, lambda: supervisor.running().get("probe", first) != first)
    supervisor.stop()
