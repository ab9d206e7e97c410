"""Looks at the structure of an uploaded ONNX file, without its weights; a worker reads the rest.

An ONNX file is one protobuf message, ModelProto, which starts with its version: the byte 8 (field
1, a number) and a small number. A parsed message takes up to a hundred times its bytes, so what a
file is made of is counted before anything parses it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from api.problems import Problem, invalid_field
from latency_probes.onnx_reader import OnnxFormatError, fields

FIELD = "weights"
MAX_BYTES = 2**31 - 1  # protobuf reads no larger message
MAX_VERSION = 64
# 12 000 nodes of 20 fields. Swin and detection networks, the largest that torch exports, have up
# to 8 000 nodes, and 3 MB beside the values of their tensors.
MAX_FIELDS = 250_000
MAX_STRUCTURE_BYTES = 16 * 2**20
MAX_DEPTH = 100  # protobuf parses no deeper
SMALL_BYTES = 2**20

# The fields of each message that are messages; the rest is text, numbers, or values of tensors.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _LEAF = "MGNATL"
_PARTS: Mapping[str, Mapping[int, str]] = {
    _MODEL: {7: _GRAPH, 8: _LEAF, 14: _LEAF, 20: _LEAF, 25: _NODE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 11: _LEAF, 12: _LEAF, 13: _LEAF, 14: _LEAF, 15: _LEAF},
    _NODE: {5: _ATTRIBUTE, 7: _NODE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH},
    _TENSOR: {13: _LEAF},
    _LEAF: {},
}
_VALUES = (4, 9)  # of a tensor: float_data and raw_data


def check_onnx(file: BinaryIO, size: int) -> None:
    """Check that a file may be an ONNX model, of a size that a worker can parse.

    Args:
        file: The upload, open for reading; left at its start.
        size: The number of bytes in it.

    Raises:
        Problem: 422, ``invalid-onnx``.
    """
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    if len(start) < 2 or start[0] != 8 or not 1 <= start[1] <= MAX_VERSION:
        raise _wrong("must be an ONNX file with architecture onnx, but its first bytes are not")
    if size > MAX_BYTES:
        raise _wrong(f"must be an ONNX file of at most {MAX_BYTES} bytes, but got {size}")
    try:
        _check_structure(bytes_of(file, size))
    except (OnnxFormatError, IndexError) as error:
        raise _wrong(f"must be a whole ONNX file, but: {error}") from None


def _check_structure(data: memoryview) -> None:
    structure_bytes = 0
    for count, size in enumerate(_sizes(data)):
        structure_bytes += size
        if count >= MAX_FIELDS:
            raise _wrong(f"must have at most {MAX_FIELDS} fields, but has more")
        if structure_bytes > MAX_STRUCTURE_BYTES:
            limit = MAX_STRUCTURE_BYTES // 2**20
            raise _wrong(f"must have at most {limit} MiB beside its weights, but has more")


def _sizes(data: memoryview) -> Iterator[int]:
    """The bytes of every field that is no message, without the values of tensors; 0 for a
    message."""
    entered = [(_MODEL, fields(data))]
    while entered:
        kind, rest = entered[-1]
        found = next(rest, None)
        if found is None:
            entered.pop()
            continue
        number, wire, _, content = found
        part = _PARTS[kind].get(number) if wire == 2 else None
        if part is not None:
            if len(entered) == MAX_DEPTH:
                raise OnnxFormatError(f"its messages must be nested at most {MAX_DEPTH} deep")
            entered.append((part, fields(content)))
            yield 0
        else:
            yield 0 if kind == _TENSOR and number in _VALUES else len(content)


def bytes_of(file: BinaryIO, size: int) -> memoryview:
    """The file's bytes; a large one is mapped, not read, for as long as they are looked at."""
    if size > SMALL_BYTES:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    data = file.read()
    file.seek(0)
    return memoryview(data)


def _wrong(message: str) -> Problem:
    return invalid_field(FIELD, message, "invalid-onnx")
