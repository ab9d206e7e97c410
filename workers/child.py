"""Runs a module in a process of its own that can be killed, with limits on what it may take.

    python -m workers.child LIMITS PARENT MODULE < request.json > answer.json

It must not know what the module does, and the child imports no library of others before
its limits hold.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from latency_probes.environment import without_secrets

GIB = 2**30
# How a child ends that met an error which may pass: the same request may succeed later.
STUMBLED = os.EX_TEMPFAIL
MEMORY_SHARE = 0.8
IDLE_SHARE = 0.01  # who computes less waits for something else than a core; a sixth is seen
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
OPEN_FILES = 1024
ANSWERS = (b'{"report":', b'{"info":', b'{"problem":')
MAX_ANSWER_BYTES = 64 * 2**20
MAX_WORDS = 500
PR_SET_PDEATHSIG = 1


class Stumble(ConnectionError):
    """The child met an error that may pass."""


@dataclass(frozen=True)
class Limits:
    """What a child may take.

    Attributes:
        wall_s: Seconds until it is killed, with every process that it started.
        cpu_s: Seconds of processor time; by default what all cores give in that time.
        idle_s: It is killed as well where it computes nothing for so long.
        memory_bytes: Private memory; None is four fifths of the machine's. What is mapped from
            files does not count, nor does address space that is only reserved.
        file_bytes: The largest file that it may write.
    """

    wall_s: float
    cpu_s: float | None = None
    idle_s: float | None = None
    memory_bytes: int | None = None
    file_bytes: int = GIB


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: Its exit status, negative for a signal; None: it took too long, or waited.
        answer: The last answer that it printed, whatever was printed around it.
        words: Why there is no answer, as far as the system and the child say.
    """

    status: int | None
    answer: dict[str, Any] | None
    words: str


def run_in_child(module: str, request: str, limits: Limits) -> Ended:
    """Runs `python -m module` with the request on its standard input, and never raises for what
    the module does, unless that says that the same may succeed later.

    Raises:
        Stumble: It ended with the status STUMBLED.
    """
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as said,
    ):
        given.write(request.encode())
        given.seek(0)
        try:
            status = _run(module, limits, given, printed, said)
        except TimeoutError as error:
            return Ended(None, None, str(error))
        if status == STUMBLED:
            raise Stumble(_words(status, _tail(said)))
        answer = _answer(_tail(printed)) if status == 0 else None
        return Ended(status, answer, _words(status, _tail(said)))


def _run(
    module: str, limits: Limits, given: IO[bytes], printed: IO[bytes], said: IO[bytes]
) -> int:
    """Its exit status; raises TimeoutError where it was stopped. No process of it is left."""
    told = json.dumps(asdict(limits) | {"memory_bytes": limits.memory_bytes or most_memory()})
    command = [sys.executable, "-m", "workers.child", told, str(os.getpid()), module]
    process = subprocess.Popen(
        command,
        stdin=given,
        stdout=printed,
        stderr=said,
        env=without_secrets(os.environ),
        start_new_session=True,
    )
    try:
        return _wait(process, limits)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], limits: Limits) -> int:
    """Its exit status; raises TimeoutError where it takes too long or computes nothing."""
    end, computed_s = time.monotonic() + limits.wall_s, 0.0
    step_s = limits.idle_s or limits.wall_s
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(step_s, max(0.0, end - time.monotonic())))
        if time.monotonic() >= end:
            raise TimeoutError(f"it took longer than {limits.wall_s:.0f} s and was stopped")
        before, computed_s = computed_s, _computed_s(process.pid)
        if computed_s - before < IDLE_SHARE * step_s:
            raise TimeoutError(f"it computed nothing for {step_s:.0f} s and was stopped")


def _computed_s(pid: int) -> float:
    """The processor time that a process took, in seconds."""
    import psutil  # only the parent asks

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return float("inf")
    return float(times.user + times.system + times.children_user + times.children_system)


def most_memory() -> int:
    """Four fifths of the memory of this machine or container, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        total = min(total, int(CGROUP_LIMIT.read_text()))
    return int(MEMORY_SHARE * total)


def _tail(file: IO[bytes]) -> bytes:
    file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_ANSWER_BYTES))
    return file.read()


def _answer(printed: bytes) -> dict[str, Any] | None:
    for line in reversed(printed.splitlines()):
        if line.startswith(ANSWERS):
            with suppress(ValueError):
                answer: dict[str, Any] = json.loads(line)
                return answer
    return None


def _words(status: int, said: bytes) -> str:
    if status == -signal.SIGKILL:
        return "it was killed, as the system does when memory runs out"
    if status == -signal.SIGXCPU:
        return "it took too much CPU time and was stopped"
    if status < 0:
        return f"it crashed ({signal.Signals(-status).name})"
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1][:MAX_WORDS] if lines else "it said nothing"


def restrict(limits: Limits, parent: int) -> None:
    """Limits this process and those that it starts, and ends it with its parent (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent has ended")
    cpu_s = limits.cpu_s or limits.wall_s * (os.cpu_count() or 1)
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: int(cpu_s) + 1,
        resource.RLIMIT_DATA: limits.memory_bytes or most_memory(),
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # One more second of processor time, so that it ends by SIGXCPU, which tells why.
        resource.setrlimit(kind, (most, most + (kind == resource.RLIMIT_CPU)))


def main() -> None:
    told, parent, module = sys.argv[1:]
    restrict(Limits(**json.loads(told)), int(parent))
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
