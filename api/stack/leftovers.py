"""What a killed stack left running: found by the note in its home, and ended.

A process id alone proves nothing, so the note keeps each child's start time as well.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psutil

SAME_START_S = 0.05


def fingerprints(running: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Process id and start time of each child, for the note."""
    found = {}
    for name, pid in running.items():
        with suppress(psutil.Error):
            found[name] = {"pid": pid, "started": psutil.Process(pid).create_time()}
    return found


def left_over(note: Mapping[str, Any]) -> list[psutil.Process]:
    """The processes in a note that still run, with everything below them."""
    found: list[psutil.Process] = []
    children = note.get("children")
    for kept in children.values() if isinstance(children, dict) else ():
        with suppress(psutil.Error, KeyError, TypeError, ValueError):
            process = psutil.Process(int(kept["pid"]))
            if abs(process.create_time() - kept["started"]) < SAME_START_S:
                found += [process, *process.children(recursive=True)]
    return found


def end(processes: list[psutil.Process], *, timeout_s: float = 5.0) -> None:
    """Ends the processes, by force those that do not end in time."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=timeout_s)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()
