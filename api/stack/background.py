"""A stack in the background: `secateur up` as a child process, ready on entry, gone on exit.

For the demo and for programs that want a private service for a while. Standard library only.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from api.stack.errors import NotReady
from api.stack.home import explained
from api.stack.launcher import command_line

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0


@contextmanager
def background(
    home: Path, options: Sequence[str] = (), *, ready_timeout_s: float = READY_TIMEOUT_S
) -> Iterator[str]:
    """Runs `secateur up` on `home` for the `with` block and gives the address of its API.

    Args:
        home: The home of the stack; what `up` says goes to `logs/up.log` below it.
        options: Further options of `up`.
        ready_timeout_s: Patience until everything is up.

    Raises:
        HomeUnusable: If `home` cannot be made.
        NotReady: If it ended or was not ready in time; the message holds its last words.
    """
    log_path = home / "logs" / "up.log"
    up = (sys.executable, "-m", "api.cli.main", "up", "--home", str(home), *options)
    with explained(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_path.parent.mkdir(mode=0o700, exist_ok=True)
        log = log_path.open("wb")
    with log:
        process = subprocess.Popen(
            command_line(up, cores=(), parent=os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield _wait_ready(process, home / "up.json", log_path, ready_timeout_s)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], *, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Asks a stack to stop in order; kills it if it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_ready(
    process: subprocess.Popen[bytes], note_path: Path, log_path: Path, timeout_s: float
) -> str:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        if (url := _ready_url(note_path, process.pid)) is not None:
            return url
        time.sleep(0.1)
    words = log_path.read_text(errors="replace")[-2000:].strip()
    raise NotReady(f"the stack must be ready within {timeout_s:g} s, but it is not: {words}")


def _ready_url(note_path: Path, pid: int) -> str | None:
    try:
        note = json.loads(note_path.read_text())
    except (OSError, ValueError):
        return None
    return str(note["url"]) if note.get("ready") and note.get("pid") == pid else None
