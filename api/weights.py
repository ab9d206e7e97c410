"""Looks at the bytes of uploaded weights: a whole safetensors file, or a reason and what to do.

Only the header is read, never a value, and nothing is unpickled. Whether names and shapes fit the
architecture is for the worker to find out. Format: 8 bytes little-endian header length, the header
as JSON (name -> dtype, shape, data_offsets), then the values, without gaps.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any, BinaryIO, TypeGuard

from api.problems import Problem, invalid_field, shown

FIELD = "weights"
LENGTH_BYTES = 8
# The largest header of a network below 4 GB is that of a mixture of 256 experts a layer (Switch
# base), with 6 700 tensors of 130 bytes. Parsed, a header takes up to 20 times its bytes.
MAX_HEADER_BYTES = 2 * 2**20
MAX_TENSORS = 20_000
OPENINGS = 3  # of a tensor: its description, shape and offsets
MAX_DIMS = 64
MAX_SIZE = 2**63
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64,
}  # fmt: skip
UNSAFE = (
    (b"PK\x03\x04", "a zip archive (.pt, .pth, .pt2 or .npz)"),
    (b"\x80", "a pickle"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89HDF", "an HDF5 file"),
)
CONVERT = (
    "convert it where you trust it: safetensors.torch.save_file({k: v.contiguous() for k, v in "
    "model.state_dict().items()}, 'weights.safetensors')"
)


def check_weights(file: BinaryIO, size: int) -> None:
    """Check that a file is a complete safetensors file, by its header and its size.

    Args:
        file: The upload, open for reading; left at its start.
        size: The number of bytes in it.

    Raises:
        Problem: 422, ``unsafe-weights`` for pickles and archives, else ``invalid-weights``.
    """
    file.seek(0)
    start = file.read(LENGTH_BYTES)
    _refuse_other_formats(start, file)
    length = int.from_bytes(start, "little")
    if len(start) < LENGTH_BYTES or length >= MAX_SIZE or length < 2:
        raise _wrong("must be a safetensors file, but its first bytes are no header length")
    if length > MAX_HEADER_BYTES:
        raise _wrong(f"must have a header of at most {MAX_HEADER_BYTES} bytes, but got {length}")
    if LENGTH_BYTES + length > size:
        raise _truncated(LENGTH_BYTES + length, size)
    file.seek(LENGTH_BYTES)
    end = _check_header(_header(file.read(length)))
    expected = LENGTH_BYTES + length + end
    if size < expected:
        raise _truncated(expected, size)
    if size > expected:
        raise _wrong(f"must end with its values, but {size - expected} more bytes follow them")
    file.seek(0)


def _refuse_other_formats(start: bytes, file: BinaryIO) -> None:
    for magic, name in UNSAFE:
        # A safetensors header of 128 bytes starts with \x80 too: there its JSON follows.
        if start.startswith(magic) and file.read(1) != b"{":
            message = f"must be a safetensors file, but got {name}: {CONVERT}"
            raise invalid_field(FIELD, message, "unsafe-weights")
        file.seek(len(start))


def _header(data: bytes) -> dict[str, Any]:
    # Before it is parsed: an empty list takes 3 bytes here, and 80 there.
    if data.count(b"{") + data.count(b"[") > OPENINGS * (MAX_TENSORS + 1):
        raise _wrong(f"must hold at most {MAX_TENSORS} tensors, but its header describes more")
    try:
        header = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise _wrong("must be a safetensors file, but its header is not JSON") from None
    if not isinstance(header, dict):
        raise _wrong("must be a safetensors file, but its header is no JSON object")
    header.pop("__metadata__", None)
    if not header:
        raise _wrong("must hold at least one tensor, but got none")
    return header


def _check_header(header: dict[str, Any]) -> int:
    """Check every tensor and that they follow each other without gaps; return where they end."""
    spans = sorted(_span(name, entry) for name, entry in header.items())
    if spans[0][0] != 0:
        raise _wrong(f"must start its values at offset 0, but got {spans[0][0]}")
    for (_, end), (begin, _) in pairwise(spans):
        if begin != end:
            raise _wrong(f"must hold its values without gaps, but {begin} follows {end}")
    return spans[-1][1]


def _span(name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict):
        raise _wrong(f"must describe every tensor, but {shown(name)} has no description")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise _wrong(f"must hold known dtypes, but {shown(name)} is {shown(dtype)}")
    if not _naturals(shape) or len(shape) > MAX_DIMS:
        raise _wrong(f"must give every tensor a shape, but {shown(name)} has {shown(shape)}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise _wrong(f"must give data_offsets, but {shown(name)} has {shown(offsets)}")
    begin, end = offsets
    needed = math.prod(shape) * ITEM_BITS[dtype] // 8
    if end - begin != needed:
        raise _wrong(f"must hold {needed} bytes for {shown(name)}, but got {end - begin}")
    return begin, end


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < MAX_SIZE for item in value
    )


def _truncated(expected: int, size: int) -> Problem:
    return _wrong(f"must be complete ({expected} bytes), but got {size}: upload the whole file")


def _wrong(message: str) -> Problem:
    return invalid_field(FIELD, message, "invalid-weights")
