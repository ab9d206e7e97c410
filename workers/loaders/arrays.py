"""Reads arrays from `.npz` and IDX files a chunk at a time, never more than their header says.

Sizes are judged before anything is unpacked. No torch.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from jobs.data_roots import ANYWHERE, DataRoots
from workers.loaders.errors import DatasetError
from workers.loaders.files import open_file
from workers.loaders.sizes import CHUNK, refuse_bomb, zip_directory_bytes

MAX_HEADER_BYTES = 2**16
MAX_DIRECTORY_BYTES = 2**20
PLAIN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


@dataclass(frozen=True)
class Header:
    """An array's type and shape, as its file says before the data.

    Attributes:
        is_fortran: The first index runs fastest.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool = False

    @property
    def size(self) -> int:
        """In bytes."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


class NpzFile:
    """The arrays in an open `.npz` file, by name."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        """Raises DatasetError if it is no zip file, or has an absurd table of contents."""
        self._path = path
        self._length = os.fstat(file.fileno()).st_size
        if zip_directory_bytes(file) > MAX_DIRECTORY_BYTES:
            raise DatasetError(f"{path} cannot be read: it lists too many arrays")
        try:
            self._pack = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise DatasetError(f"{path} cannot be read as .npz: {error}") from error
        self._items = {each.filename.removesuffix(".npy"): each for each in self._pack.infolist()}

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def header(self, name: str) -> Header:
        """Type and shape of an array, without its data."""
        with self._open(name) as (_, stream):
            return _npy_header(stream, f"{name} in {self._path}")

    def array(self, name: str) -> NDArray[Any]:
        """An array, whole."""
        what = f"{name} in {self._path}"
        with self._open(name) as (packed, stream):
            header = _npy_header(stream, what)
            refuse_bomb(what, header.size, packed)
            return _filled(header, stream, what)

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[int, IO[bytes]]]:
        item = self._items[name]
        if item.compress_type not in PLAIN:
            raise DatasetError(f"{name} in {self._path} must be stored or deflated, but is not")
        with self._pack.open(item) as stream:
            yield min(item.compress_size, self._length), stream


@contextmanager
def open_npz(path: Path, roots: DataRoots = ANYWHERE) -> Iterator[NpzFile]:
    """The `.npz` file; raises DatasetError where it cannot be one."""
    with open_file(path, roots) as file:
        yield NpzFile(file, path)


def read_idx(path: Path, *, dimensions: int, roots: DataRoots = ANYWHERE) -> NDArray[np.uint8]:
    """One IDX file of bytes (LeCun et al., the MNIST database), gzipped or not.

    Raises:
        DatasetError: It is not such a file, shorter or longer than its header says, or a bomb.
    """
    with open_file(path, roots) as file:
        packed = os.fstat(file.fileno()).st_size
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
        start = stream.read(4 + 4 * dimensions)
        if len(start) < 4 + 4 * dimensions or start[:4] != bytes([0, 0, 8, dimensions]):
            raise DatasetError(f"{path} is not an IDX file of {dimensions} dimensions of bytes")
        header = Header(struct.unpack_from(f">{dimensions}I", start, 4), np.dtype(np.uint8))
        refuse_bomb(str(path), header.size, packed)
        return _filled(header, stream, str(path))


def _npy_header(stream: IO[bytes], what: str) -> Header:
    """Reads up to the data. numpy would read a header of any length before it looks at it."""
    start = stream.read(12)
    if start[:6] != npy.MAGIC_PREFIX or len(start) < 12:
        raise DatasetError(f"{what} cannot be read: it is no .npy array")
    is_first = start[6] == 1
    length = struct.unpack_from("<H" if is_first else "<I", start, 8)[0]
    if length > MAX_HEADER_BYTES:
        raise DatasetError(f"{what} cannot be read: its header has {length} bytes")
    rest = io.BytesIO(start[8:] + stream.read(length - (2 if is_first else 0)))
    read = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(rest)
    if dtype.hasobject:
        raise DatasetError(f"{what} cannot be read: it holds Python objects, not numbers")
    return Header(shape, dtype, is_fortran)


def _filled(header: Header, stream: IO[bytes], what: str) -> NDArray[Any]:
    """The array of exactly as many bytes as the header says."""
    data = np.empty(header.size, np.uint8)
    view, count = data.data, 0
    while count < header.size:
        part = stream.read(min(CHUNK, header.size - count))
        if not part:
            raise DatasetError(
                f"{what} is truncated: {count} bytes for shape {list(header.shape)}"
            )
        view[count : count + len(part)] = part
        count += len(part)
    if stream.read(1):
        raise DatasetError(f"{what} is longer than its shape {list(header.shape)}")
    values = data.view(header.dtype)
    return values.reshape(header.shape, order="F" if header.is_fortran else "C")
