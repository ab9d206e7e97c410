"""Unpacks an uploaded data set, refusing entries that leave the folder and absurd sizes."""

from __future__ import annotations

import shutil
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

from workers.loaders.errors import DatasetError

MAX_BYTES = 20 * 2**30
MAX_FILES = 2_000_000


def unpack(archive: Path, target: Path) -> Path:
    """Unpacks a .zip or .tar(.gz, .bz2, .xz) into `target`, which appears whole or not at all.

    Returns:
        The folder that holds the data: `target`, or its only folder.

    Raises:
        DatasetError: Not an archive, truncated, or with entries that are refused.
    """
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
        try:
            _extract(archive, part)
            part.rename(target)
        except Exception as error:  # damaged and encrypted archives raise nearly anything
            shutil.rmtree(part, ignore_errors=True)
            if not target.exists():  # else another worker was first
                raise DatasetError(f"the archive cannot be unpacked: {error}") from error
    inner = list(target.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].is_dir() and _wraps(inner[0]) else target


def _wraps(folder: Path) -> bool:
    """Whether the folder is only a wrapper, and not itself the split `train`."""
    return folder.name not in {"train", "test", "val"}


def _extract(archive: Path, target: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            _refuse_absurd(sum(item.file_size for item in pack.infolist()), len(pack.infolist()))
            if any(stat.S_ISLNK(item.external_attr >> 16) for item in pack.infolist()):
                raise ValueError("it holds links")
            pack.extractall(target)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            _refuse_absurd(sum(member.size for member in members), len(members))
            tar.extractall(target, filter="data")
    else:
        raise ValueError("it is neither a zip nor a tar file")


def _refuse_absurd(size: int, count: int) -> None:
    if size > MAX_BYTES or count > MAX_FILES:
        raise ValueError(f"it would unpack to {size} bytes in {count} files")
