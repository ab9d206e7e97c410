"""Data that Valkey refuses to load: recognised by how it ended, and set aside.

All of it can be derived again from the database, so a damaged file is no reason not to run. A file
that only lacks its tail, as after a power cut, is repaired by Valkey itself.
"""

import errno
import os
from datetime import datetime
from pathlib import Path
from signal import SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV

DATA = ("appendonlydir", "dump.rdb")
LOG_TAIL = 2**20
# How it ends by itself: it refuses, or stumbles over what it reads.
STUMBLED = tuple(-number for number in (SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL))
STARTING, LOADING, READY = "is starting", "Server initialized", "Ready to accept connections"
# What keeps a good file from being read as well.
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def refusal(log_path: Path) -> str | None:
    """Valkey's own words, if its last run ended while it read its data; None if it ended for
    another reason."""
    _, _, run = last_words(log_path).rpartition(STARTING)
    _, loading, words = run.partition(LOADING)
    if not loading or READY in words or any(os.strerror(code) in words for code in PASSING):
        return None
    lines = [line.partition(" # ")[2].strip() for line in words.splitlines() if " # " in line]
    said = next((line for line in reversed(lines) if line), "it did not say why")
    return said.partition(": make a backup")[0].rstrip(".")


def ended_by_itself(status: int | None) -> bool:
    """Whether an exit status is neither a stop in order nor somebody else's signal."""
    return status is not None and (status > 0 or status in STUMBLED)


def last_words(log_path: Path) -> str:
    """The end of a log; nothing if it cannot be read."""
    try:
        with log_path.open("rb") as log:
            log.seek(max(0, log_path.stat().st_size - LOG_TAIL))
            return log.read().decode(errors="replace")
    except OSError:
        return ""


def set_aside(directory: Path, now: datetime) -> list[Path]:
    """Renames the data in Valkey's directory, so that it starts with none; returns where it is
    kept."""
    kept = []
    for name in DATA:
        path = directory / name
        if os.path.lexists(path):
            place = free_name(path, f"damaged-{now:%Y%m%dT%H%M%S}")
            path.rename(place)
            kept.append(place)
    return kept


def free_name(path: Path, mark: str) -> Path:
    """A name beside `path` that nothing has yet."""
    place, number = path.with_name(f"{path.name}.{mark}"), 1
    while os.path.lexists(place):
        number += 1
        place = path.with_name(f"{path.name}.{mark}-{number}")
    return place
