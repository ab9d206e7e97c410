"""Unpacks an uploaded data set, refusing entries that leave the folder and absurd sizes.

Sizes are known from the entries' headers, and judged before the entry is unpacked.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from workers.loaders.errors import DatasetError
from workers.loaders.files import is_stray
from workers.loaders.sizes import MAX_BYTES, MAX_FILES, refuse_bomb, zip_directory_bytes

__all__ = ["MAX_BYTES", "unpack"]
MAX_DIRECTORY_BYTES = 256 * 2**20
TAR_BLOCK = 512
MAX_TAR_HEADER = 2**20
PLAIN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
PACKERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


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
    inner = [each for each in target.iterdir() if not is_stray(each.name)]
    return inner[0] if len(inner) == 1 and inner[0].is_dir() and _wraps(inner[0]) else target


def _wraps(folder: Path) -> bool:
    """Whether the folder is only a wrapper, and not itself the split `train`."""
    return folder.name not in {"train", "test", "val"}


def _extract(archive: Path, target: Path) -> None:
    size = archive.stat().st_size
    with archive.open("rb") as file:
        if zipfile.is_zipfile(file):
            _extract_zip(file, size, target)
        else:
            _extract_tar(file, size, target)


def _extract_zip(file: BinaryIO, packed: int, target: Path) -> None:
    if zip_directory_bytes(file) > MAX_DIRECTORY_BYTES:
        raise ValueError("it lists too many files")
    with zipfile.ZipFile(file) as pack:
        items = [each for each in pack.infolist() if _is_wanted(each.filename)]
        _refuse_absurd(sum(item.file_size for item in items), len(items), packed)
        if any(stat.S_ISLNK(item.external_attr >> 16) for item in items):
            raise ValueError("it holds links")
        if any(item.compress_type not in PLAIN for item in items):
            raise ValueError("its files must be stored or deflated, but are not")
        pack.extractall(target, items)


def _extract_tar(file: BinaryIO, packed: int, target: Path) -> None:
    """One pass: an entry's size is judged before what it holds is unpacked."""
    size = count = 0
    try:
        with tarfile.open(fileobj=_unpacking(file), mode="r:") as tar:
            for member in tar:
                size, count = size + member.size, count + 1
                _refuse_absurd(size, count, packed, overhead=count * TAR_BLOCK)
                if _is_wanted(member.name):
                    tar.extract(member, target, filter="data")
    except tarfile.ReadError as error:
        if count:
            raise
        raise ValueError("it is neither a zip nor a tar file") from error


class _ShortReads(io.BufferedIOBase):
    """A tar's bytes; tarfile reads data in small pieces, but extended headers in one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_TAR_HEADER:
            raise ValueError("it holds an extended header of absurd size")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _unpacking(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    start = file.read(6)
    file.seek(0)
    stream = next((make(file) for magic, make in PACKERS.items() if start.startswith(magic)), file)
    return cast(BinaryIO, _ShortReads(stream))


def _is_wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not any(is_stray(each) for each in parts if each != "..")


def _refuse_absurd(size: int, count: int, packed: int, *, overhead: int = 0) -> None:
    files = f" in {count} files"
    refuse_bomb("it", size, packed, more=files, overhead=overhead)
    if count > MAX_FILES:
        raise ValueError(f"it would unpack to {size} bytes{files}, but the most are {MAX_FILES}")
