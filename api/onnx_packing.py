"""Packs an ONNX file and the data files beside it into one file, as the service keeps it.

Works on bytes, so that neither a client nor the API needs a library for ONNX. A client opens
nothing outside of the file's folder; the API opens nothing by a name that it was given.
"""

from __future__ import annotations

import mmap
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from latency_probes.onnx_reader import OnnxFormatError, fields, text
from latency_probes.onnx_writer import Chunk, chunks_with

MAX_BYTES = 2**31 - 1  # protobuf reads no larger message
_GRAPH, _INITIALIZER = 7, 5  # field numbers of ModelProto and GraphProto
_NAME, _EXTERNAL, _LOCATION = 8, 13, 14  # of TensorProto
_IN_A_FILE = 1

Places = Mapping[str, Mapping[str, str]]  # initializer -> what the model says of its place
Data = Callable[[str, str], memoryview]  # initializer, location -> the bytes of that file


class PackingError(ValueError):
    """The data of an ONNX file cannot be packed; it says which file and why."""


@contextmanager
def packed(path: Path) -> Iterator[Path]:
    """The file itself where all its weights are inside; else a temporary one that holds all.

    Raises:
        PackingError: a data file is missing, short or outside of the folder, or all of it is more
            than an ONNX file can hold.
    """
    with ExitStack() as stack:
        model = _mapped(path, stack)
        try:
            places = places_of(model)
        except (OnnxFormatError, IndexError, UnicodeDecodeError):
            places = {}  # no ONNX file: the service says so
        if not places:
            yield path
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secateur-onnx-")))
        chunks = joined(model, places, _beside(path.parent, stack))
        whole = folder / path.name
        with whole.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        yield whole


def places_of(model: memoryview) -> Places:
    """Initializers whose values lie in other files, and where: location, offset and length.

    Raises:
        OnnxFormatError, IndexError, UnicodeDecodeError: the bytes are no ONNX file.
    """
    return dict(_external(model))


def joined(model: memoryview, places: Places, data: Data) -> Sequence[Chunk]:
    """The parts of a file that holds the values of these initializers as well; nothing is copied.

    Args:
        model: an ONNX file.
        places: see `places_of`.
        data: gives the bytes of a file for an initializer that lies there, and its location, and
            the same object for the same file; it raises PackingError where there is no such file.

    Raises:
        PackingError: values lie beyond the end of their file; all of it is more than an ONNX file
            can hold, or more than the files together, because values share bytes.
    """
    files: dict[int, memoryview] = {}
    raw = {}
    for name, entries in places.items():
        location = entries.get("location", "")
        file = data(name, location)
        files[id(file)] = file
        raw[name] = _cut(name, entries, file, location)
    chunks = chunks_with(model, raw)
    size = sum(map(len, chunks))
    given = len(model) + sum(map(len, files.values()))
    if size > MAX_BYTES:
        raise PackingError(
            f"an ONNX file and its data files must have ≤ {MAX_BYTES} bytes together, but have "
            f"{size}: an ONNX file holds no more"
        )
    if size > given + _GROWTH:
        raise PackingError(
            f"values must have bytes of their own, but the data files hold {given} bytes with the "
            f"model, of which {size} would be made: some values share theirs"
        )
    return chunks


_GROWTH = 64  # bytes by which the numbers of lengths may grow


def _external(model: memoryview) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Initializers whose values lie in other files, with what the model says of the place."""
    for number, wire, _, graph in fields(model):
        if number != _GRAPH or wire != 2:
            continue
        for part, kind, _, tensor in fields(graph):
            if part == _INITIALIZER and kind == 2:
                name, entries, location = _place(tensor)
                if location == _IN_A_FILE:
                    yield name, entries


def _place(tensor: memoryview) -> tuple[str, dict[str, str], int]:
    name, location = "", 0
    entries: dict[str, str] = {}
    for number, _, integer, data in fields(tensor):
        if number == _NAME:
            name = text(data)
        elif number == _EXTERNAL:
            entry = {key: text(value) for key, _, _, value in fields(data)}
            entries[entry.get(1, "")] = entry.get(2, "")
        elif number == _LOCATION:
            location = integer
    return name, entries, location


def _beside(folder: Path, stack: ExitStack) -> Data:
    """Files in a folder or below, with links followed."""
    root = Path(os.path.realpath(folder))
    files: dict[Path, memoryview] = {}

    def data(name: str, location: str) -> memoryview:
        place = Path(os.path.realpath(root / location)) if "\0" not in location else root
        if not place.is_relative_to(root) or place == root:
            raise PackingError(
                f"the values of {name!r} must lie in the folder of the ONNX file, but are said "
                f"to lie in {location!r}"
            )
        if place not in files:
            files[place] = _mapped(place, stack)
        return files[place]

    return data


def _cut(name: str, entries: Mapping[str, str], data: memoryview, file: str) -> memoryview:
    try:
        start = int(entries.get("offset") or 0)
        length = int(entries.get("length") or len(data) - start)
    except ValueError:
        raise PackingError(f"the place of {name!r} must be numbers, but is {entries}") from None
    if not (start >= 0 and 0 <= length <= len(data) - start):
        raise PackingError(
            f"{name!r} must lie within {file} of {len(data)} bytes, but is said to have {length} "
            f"bytes from {start} on"
        )
    return data[start : start + length]


def _mapped(path: Path, stack: ExitStack) -> memoryview:
    """The bytes of a regular file, not read before they are looked at."""
    try:
        file = stack.enter_context(os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb"))
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PackingError(f"{path} must be a regular file, but is none")
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise PackingError(f"{path} must be readable, but: {error.strerror}") from None
