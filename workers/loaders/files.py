"""Opens what a data set names: regular files alone, that lie where this server reads data.

Knows no format. A FIFO would block the reader for ever, and a device has effects when opened.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from jobs.data_roots import DataRoots
from workers.loaders.errors import DatasetError

FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
# Left behind by file managers, notebooks and archivers; names that begin with a dot too.
STRAY = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def open_file(path: Path, roots: DataRoots) -> BinaryIO:
    """The file for reading.

    Raises:
        DatasetError: It is missing, no regular file, or outside the roots.
    """
    refuse_outside(path, roots)
    try:
        _refuse_irregular(path, path.stat())
        file = os.fdopen(os.open(path, FLAGS), "rb")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    try:  # it may have been replaced since
        _refuse_irregular(path, os.fstat(file.fileno()))
        refuse_outside(path, roots, Path(f"/proc/self/fd/{file.fileno()}"))
    except BaseException:
        file.close()
        raise
    return file


def refuse_outside(path: Path, roots: DataRoots, opened: Path | None = None) -> None:
    """Raises DatasetError unless the path, or what is open in its place, is under a root."""
    if roots.folders is None:
        return
    if not roots.hold(path if opened is None else opened.readlink()):
        raise DatasetError(
            f"{path} must lie under a data root of this server ({roots}) with every link in it "
            "followed; copy it there, or upload an archive"
        )


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name is hidden or left behind by other programs."""
    return name.startswith(".") or name in STRAY


def _refuse_irregular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise DatasetError(f"{path} must be a regular file, but is {kind}")
