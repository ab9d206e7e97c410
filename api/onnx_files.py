"""Looks at the first bytes and the size of an uploaded ONNX file; a worker reads the rest.

An ONNX file is one protobuf message, ModelProto, which starts with its version: the byte 8 (field
1, a number) and a small number.
"""

from __future__ import annotations

from typing import BinaryIO

from api.problems import invalid_field

FIELD = "weights"
MAX_BYTES = 2**31 - 1  # protobuf reads no larger message
MAX_VERSION = 64


def check_onnx(file: BinaryIO, size: int) -> None:
    """Check that a file may be an ONNX model.

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
        message = "must be an ONNX file with architecture onnx, but its first bytes are not"
        raise invalid_field(FIELD, message, "invalid-onnx")
    if size > MAX_BYTES:
        message = f"must be an ONNX file of at most {MAX_BYTES} bytes, but got {size}"
        raise invalid_field(FIELD, message, "invalid-onnx")
