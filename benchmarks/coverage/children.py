"""Runs models in child processes, each in a session of its own, and ends those that overstay.

The time limit is that of building, tracing and pruning; the checks afterwards, which export and
start a further process, have one of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.coverage.rows import Row
from benchmarks.coverage.stages import ANALYSIS, stage_in

ROOT = Path(__file__).parents[2]
TICK_S = 0.1
Command = Callable[[str, Path], list[str]]


@dataclass(frozen=True)
class Limits:
    """What a child may take.

    Attributes:
        time_s: seconds to start, build, trace and prune.
        checks_s: seconds for everything after that.
        memory_bytes: resident memory of the child.
    """

    time_s: float
    checks_s: float
    memory_bytes: int


def child_command(limits: Limits, threads: int = 1, *, quick: bool = False) -> Command:
    """The command of a real child."""

    def command(name: str, folder: Path) -> list[str]:
        module = [sys.executable, "-m", "benchmarks.coverage.child", name, str(folder)]
        options = [f"--time-limit={limits.time_s}", f"--threads={threads}"]
        return [*module, *options, *(["--quick"] if quick else [])]

    return command


class Child:
    """One running model.

    Args:
        name: the model.
        command: what to run.
        limits: when to end it.
        threads: of the numeric libraries.
    """

    def __init__(self, name: str, command: Command, limits: Limits, threads: int) -> None:
        self._name, self._limits = name, limits
        self._folder = tempfile.TemporaryDirectory(prefix="coverage-")
        self._path = Path(self._folder.name)
        self._log = (self._path / "log").open("wb")
        self._begun = time.monotonic()
        self._checks_begun: float | None = None
        self._process = subprocess.Popen(
            command(name, self._path),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env=_environment(threads),
        )

    def poll(self) -> Row | None:
        """The row, once there is one; a child that overstays is ended."""
        if self._process.poll() is None and (ended := self._overstay()) is None:
            return None
        status = self._process.poll()
        row = self._written() if status is not None else None
        if row is None:
            row = ended if status is None else self._died(status)
        self.end()
        return row

    def end(self) -> None:
        """Kill the child and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def _overstay(self) -> Row | None:
        now, stage = time.monotonic(), stage_in(self._path)
        if stage not in ANALYSIS and self._checks_begun is None:
            self._checks_begun = now
        begun, limit = self._begun, self._limits.time_s
        if self._checks_begun is not None:
            begun, limit = self._checks_begun, self._limits.checks_s
        if now - begun > limit:
            return self._row("timeout", f"{stage}: more than {limit:g} s")
        if _resident_bytes(self._process.pid) > self._limits.memory_bytes:
            gigabytes = self._limits.memory_bytes / 1e9
            return self._row("failed", f"{stage}: more than {gigabytes:g} GB of memory")
        return None

    def _written(self) -> Row | None:
        try:
            return Row(**json.loads((self._path / "row.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _died(self, status: int) -> Row:
        lines = (self._path / "log").read_text(errors="replace").strip().splitlines()
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        said = f": {lines[-1][:200]}" if lines else ""
        return self._row("failed", f"{stage_in(self._path)}: died of {cause}{said}")

    def _row(self, status: str, reason: str) -> Row:
        seconds = round(time.monotonic() - self._begun, 2)
        traced = stage_in(self._path) not in ANALYSIS[:4]
        return Row(self._name, status, seconds=seconds, reason=reason, detail={"traced": traced})  # type: ignore[arg-type]


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Inside, an interrupt waits: nobody would know the child that was being started."""
    seen: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: seen.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for told in seen:
        signal.raise_signal(told)


def run(
    names: Sequence[str], command: Command, limits: Limits, *, jobs: int = 1, threads: int = 1
) -> Iterator[Row]:
    """Rows in the order in which the models finish; leaving early ends all children."""
    waiting, running = list(reversed(names)), list[Child]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                with _uninterrupted():
                    running.append(Child(waiting.pop(), command, limits, threads))
            time.sleep(TICK_S)
            for child in list(running):
                row = child.poll()
                if row is not None:
                    running.remove(child)
                    yield row
    finally:
        for child in running:
            child.end()


def _environment(threads: int) -> dict[str, str]:
    """Few threads, nothing from the network or from a compiler, and this repository on the path.

    torchvision compiles what its own binary lacks, which takes a minute.
    """
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    plain = {"TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": path}
    return {**os.environ, **counts, **offline, **plain}


def _resident_bytes(pid: int) -> int:
    """Resident memory; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
