"""Named stages with their seconds; the current one is on disk for the parent to read.

Seconds of the processor tell a slow model from a busy machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ANALYSIS = ("start", "build", "run dense", "trace", "prune")


class Stages:
    """Times stages and notes which one runs.

    Args:
        folder: where the file `stage` is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "stage"
        self.current = "start"
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything inside belongs to `name`; after an exception it stays the current one."""
        self.current = name
        self._file.write_text(name)
        begun, cpu_begun = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - begun, 2)
            self.cpu_seconds[name] = round(time.process_time() - cpu_begun, 2)

    @property
    def analysis_s(self) -> float:
        """Seconds until the model is pruned."""
        return sum(self.seconds.get(name, 0.0) for name in ANALYSIS)


def stage_in(folder: Path) -> str:
    """The stage that the child in `folder` is in."""
    try:
        return (folder / "stage").read_text() or "start"
    except OSError:
        return "start"
