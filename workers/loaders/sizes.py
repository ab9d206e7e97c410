"""What packed data may unpack to, so that a small file cannot fill memory or disk."""

from __future__ import annotations

import struct
from typing import BinaryIO

MAX_BYTES = 20 * 2**30
MAX_FILES = 2_000_000
# Photographs shrink 2 to 10 times, drawings and masks 5 to 50 times, and constant bytes, which
# is what a bomb is made of, 1000 times. Small files may shrink as they like.
MAX_RATIO = 200
FREE_BYTES = 64 * 2**20
CHUNK = 2**20
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x07"


def refuse_bomb(what: str, size: int, packed: int, *, more: str = "", overhead: int = 0) -> None:
    """Raises ValueError if `size` bytes, and `overhead` that is read to find them, from `packed`
    ones are more than any honest data."""
    if size > MAX_BYTES:
        raise ValueError(f"{what} would unpack to {size} bytes{more}, but the most is {MAX_BYTES}")
    if max(FREE_BYTES, MAX_RATIO * packed) < size + overhead:
        raise ValueError(
            f"{what} would unpack from {packed} to {size} bytes{more}, but must not grow more "
            f"than {MAX_RATIO} times: store it uncompressed"
        )


def zip_directory_bytes(file: BinaryIO) -> int:
    """The size of a zip's table of contents, from its end record; 0 if there is none.

    zipfile holds the whole table in memory, about ten times as large.
    """
    length = file.seek(0, 2)
    tail_at = max(0, length - 2**16 - 98)  # the longest comment, and three records before it
    file.seek(tail_at)
    tail = file.read()
    file.seek(0)
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + 16:
        return 0
    size: int = struct.unpack_from("<I", tail, end + 12)[0]
    if end >= 76 and tail[end - 20 : end - 16] == _END_64:
        size = max(size, struct.unpack_from("<Q", tail, end - 76 + 40)[0])
    return min(size, length)
