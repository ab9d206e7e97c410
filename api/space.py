"""Disk space for uploads: what is free, less what uploads in flight have been promised.

It must not know requests or routes. One process counts its own uploads only; a second one sees
what has reached the disk.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
STEP_BYTES = 64 * MIB


class NoSpace(Exception):
    """A folder has too little free disk space for what is still to come."""

    def __init__(self, folder: Path, needed: int, free: int) -> None:
        self.folder, self.needed, self.free = folder, needed, free
        super().__init__(f"{folder} needs {needed} bytes, but has {free}")


@dataclass(eq=False)
class Promise:
    """The space of one upload: `size` bytes in every folder, of which `received` have come."""

    size: int
    received: int = 0
    checked: int = 0


class UploadSpace:
    """Keeps uploads from filling the disk together.

    Args:
        spool: Where a body is written while it is received.
        copies: The folders to each of which the whole body is copied afterwards.
        margin_bytes: What must stay free: the database and the logs need it.
        free: Free bytes of the filesystem that holds a folder.
    """

    def __init__(
        self,
        spool: Path,
        copies: Sequence[Path],
        margin_bytes: int,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._spool, self._copies = spool, tuple(copies)
        self._margin_bytes = margin_bytes
        self._free = free
        self._promises: list[Promise] = []

    def promise(self, announced: int | None) -> Promise:
        """Space for an upload of so many bytes, or for as many as will come; raises NoSpace."""
        made = Promise(STEP_BYTES if announced is None else announced)
        self._promises.append(made)
        try:
            self._check()
        except NoSpace:
            self.release(made)
            raise
        return made

    def take(self, promise: Promise, count: int) -> None:
        """Counts bytes that have come, and looks at the disk again now and then; raises
        NoSpace."""
        promise.received += count
        if promise.received > promise.size:
            promise.size = promise.received + STEP_BYTES
        if promise.received >= promise.checked + STEP_BYTES:
            promise.checked = promise.received
            self._check()

    def release(self, promise: Promise) -> None:
        """Ends a promise: the upload lies in its place, or is gone."""
        if promise in self._promises:
            self._promises.remove(promise)

    def _check(self) -> None:
        needed: Counter[int] = Counter()
        folders: dict[int, Path] = {}
        for folder, count in self._outstanding():
            existing = _existing(folder)
            device = existing.stat().st_dev
            needed[device] += count
            folders[device] = existing
        for device, folder in folders.items():
            free = self._free(folder) - self._margin_bytes
            if needed[device] > free:
                raise NoSpace(folder, needed[device], max(free, 0))

    def _outstanding(self) -> list[tuple[Path, int]]:
        whole = sum(promise.size for promise in self._promises)
        to_come = whole - sum(promise.received for promise in self._promises)
        return [(self._spool, to_come), *((folder, whole) for folder in self._copies)]


def _existing(folder: Path) -> Path:
    """The folder, or the one above it in which it will be made."""
    return next(each for each in (folder, *folder.parents) if each.exists())
