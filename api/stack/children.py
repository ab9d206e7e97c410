"""One process of the stack: how it is started, and how it is ended with all it started itself.

Every child leads its own process group, so that Ctrl-C in a terminal reaches the supervisor alone.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from api.stack.launcher import command_line
from latency_probes.environment import without_secrets

LOG_LIMIT = 8 * 2**20


@dataclass(frozen=True)
class ChildSpec:
    """What to run and how long it may take to end.

    Attributes:
        name: Short name; also that of its log file.
        command: Argument vector.
        log_path: Where standard output and error go.
        environment: Variables on top of the supervisor's own, of which it gets no secrets.
        cores: Cores it is kept to; empty means any.
        outlives_parent: Whether it may go on when the supervisor is killed.
        renew: Makes the specification anew before a restart, in a thread of its own; it is given
            the exit status of the last run, None before the first one. None keeps it.
        stop_s: Patience between SIGTERM and SIGKILL; half-way a second SIGTERM says "at once".
    """

    name: str
    command: tuple[str, ...]
    log_path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()
    outlives_parent: bool = False
    stop_s: float = 3.0
    renew: "Callable[[int | None], ChildSpec] | None" = None


class Child:
    """A running process of the stack."""

    def __init__(self, spec: ChildSpec) -> None:
        """Starts it. Must be called from the main thread: the parent-death signal follows it."""
        self.spec = spec
        parent = None if spec.outlives_parent else os.getpid()
        make_room(spec.log_path)
        with spec.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command_line(spec.command, cores=spec.cores, parent=parent),
                env={**without_secrets(os.environ), **spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started_s = time.monotonic()

    @property
    def pid(self) -> int:
        """Its process id, which is that of its process group as well."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it alone; nothing if it has ended."""
        self._process.send_signal(number)

    def wait(self) -> None:
        """Waits for its end."""
        self._process.wait()

    def sweep(self) -> None:
        """Kills what is left of its process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def stop_children(children: Sequence[Child]) -> None:
    """Ends the children at the same time, each with its own patience, and their descendants."""
    descendants = [each for child in children for each in descendants_of(child.pid)]
    rounds = ((signal.SIGTERM, 0.0), (signal.SIGTERM, 0.5), (signal.SIGKILL, 1.0))
    started_s = time.monotonic()
    for number, share in rounds:
        for child in children:
            wait_for_end(child, started_s + share * child.spec.stop_s)
            child.signal(number)
    for child in children:
        child.wait()
        child.sweep()
    kill_all(descendants)


def wait_for_end(child: Child, deadline_s: float) -> None:
    """Waits until a child has ended or the monotonic clock has reached the deadline."""
    while child.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.02)


def descendants_of(pid: int) -> list[psutil.Process]:
    """Every process below `pid` now."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Kills those of the processes that still run; a recycled process id is left alone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def make_room(log_path: Path) -> None:
    """Puts a long log aside, so that two generations at most are kept."""
    if log_path.exists() and log_path.stat().st_size > LOG_LIMIT:
        log_path.replace(log_path.with_suffix(".log.1"))
