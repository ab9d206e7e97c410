"""An uploaded ONNX file and the data files that came beside it, as one file.

A data file is known by the name that the model has for it. That name is looked up among the parts
of the form; nothing is opened by it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from starlette.datastructures import UploadFile

from api.onnx_files import FIELD, bytes_of, check_onnx
from api.onnx_packing import Data, PackingError, joined, places_of
from api.problems import Problem, invalid_field, shown
from latency_probes.onnx_reader import OnnxFormatError

DATA = "data"
MAX_DATA_FILES = 64


def one_file(model: UploadFile, data: Sequence[UploadFile]) -> BinaryIO:
    """The ONNX file with all values inside; the upload itself where nothing lies elsewhere.

    Args:
        model: the ONNX file.
        data: its data files, each under the name by which the model calls it.

    Raises:
        Problem: 422, ``invalid-onnx``: the model is no ONNX file; a data file is missing, short,
            named twice or in no place of the model, or its name leaves the folder of the model.
    """
    check_onnx(model.file, _size(model))
    files = _by_name(data)
    whole = bytes_of(model.file, _size(model))
    try:
        places = places_of(whole)
    except (OnnxFormatError, IndexError, UnicodeDecodeError) as error:
        raise invalid_field(
            FIELD, f"must be a whole ONNX file, but: {error}", "invalid-onnx"
        ) from None
    if not places:
        _refuse_unread(files, set())
        return model.file
    read: set[str] = set()
    try:
        chunks = joined(whole, places, _among(files, read))
    except PackingError as error:
        raise _wrong(f"cannot be put into the ONNX file: {error}") from None
    _refuse_unread(files, read)
    return cast("BinaryIO", io.BufferedReader(_Chunks(iter(chunks))))


def _by_name(data: Sequence[UploadFile]) -> dict[str, UploadFile]:
    files: dict[str, UploadFile] = {}
    for each in data:
        name = _plain(each.filename or "")
        if name is None:
            raise _wrong(
                "must have the names that the ONNX file has for them, relative to its folder, but "
                f"got {shown(each.filename)}"
            )
        if name in files:
            raise _wrong(f"must have names of their own, but {shown(name)} came twice")
        files[name] = each
    return files


def _among(files: Mapping[str, UploadFile], read: set[str]) -> Data:
    """The bytes of the uploads by their names, which are noted."""
    found: dict[str, memoryview] = {}

    def data(name: str, location: str) -> memoryview:
        plain = _plain(location)
        if plain is None:
            raise PackingError(
                f"the values of {name!r} must lie in the folder of the ONNX file, but are said "
                f"to lie in {location!r}"
            )
        if plain not in files:
            raise PackingError(
                f"the values of {name!r} lie in {plain!r}, which did not come: with curl, "
                f"-F 'data=@PATH;filename={plain}'"
            )
        if plain not in found:
            files[plain].file.seek(0)
            found[plain] = bytes_of(files[plain].file, _size(files[plain]))
            read.add(plain)
        return found[plain]

    return data


def _plain(name: str) -> str | None:
    """A relative name without detours; None where it leaves the folder, or is none."""
    path = PurePosixPath(name)
    if "\0" in name or path.is_absolute() or not path.parts or ".." in path.parts:
        return None
    return str(path)


def _refuse_unread(files: Mapping[str, UploadFile], read: set[str]) -> None:
    for name in files.keys() - read:
        raise _wrong(f"must be files that the ONNX file names, but no values lie in {shown(name)}")


def _size(upload: UploadFile) -> int:
    return upload.file.seek(0, 2) if upload.size is None else upload.size


def _wrong(message: str) -> Problem:
    return invalid_field(DATA, message, "invalid-onnx")


class _Chunks(io.RawIOBase):
    """Reads parts of memory one after another, as a file."""

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            following = next(self._chunks, None)
            if following is None:
                return 0
            self._rest = memoryview(following)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
