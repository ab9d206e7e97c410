"""What an uploaded ONNX file may be made of. Messages are written by hand: they are under test."""

from __future__ import annotations

import io
import tempfile

import pytest

from api.onnx_files import MAX_FIELDS, MAX_STRUCTURE_BYTES, check_onnx
from api.problems import Problem
from jobs.checking import built_in

VERSION = b"\x08\x08"
GRAPH, NODE, ATTRIBUTE, TENSOR, VALUE_INFO = 7, 1, 5, 5, 13


def part(number: int, content: bytes) -> bytes:
    """One field that holds a message, a text or packed numbers."""
    head, size = b"", len(content)
    while size > 127:
        head, size = head + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + head + bytes([size]) + content


def graph(content: bytes) -> bytes:
    return VERSION + part(GRAPH, content)


def nested(levels: int) -> bytes:
    inner = b""
    for _ in range(levels):
        inner = part(NODE, part(ATTRIBUTE, part(6, inner)))
    return graph(inner)


BOMBS = {
    "nodes": graph(part(NODE, b"") * MAX_FIELDS),
    "inputs": graph(part(NODE, part(1, b"") * MAX_FIELDS)),
    "functions": VERSION + part(GRAPH, b"") + part(25, part(7, b"") * MAX_FIELDS),
    "packed sizes": graph(part(TENSOR, part(1, b"\x01" * (MAX_STRUCTURE_BYTES + 1)))),
    "types": graph(part(VALUE_INFO, b"\x0a\x00" * (MAX_STRUCTURE_BYTES // 2 + 1))),
    "depth": nested(200),
    "a cut": built_in()[1][:-1],
    "a number without an end": graph(b"\xff" * 20),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_what_grows_when_it_is_parsed_is_refused(data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        with pytest.raises(Problem, match="must") as refused:
            check_onnx(file, len(data))

    assert refused.value.document["type"].endswith("invalid-onnx")


def test_a_real_model_is_accepted_and_left_at_its_start() -> None:
    model = built_in()[1]
    file = io.BytesIO(model)
    check_onnx(file, len(model))

    assert file.tell() == 0


def test_weights_may_be_large() -> None:
    data = graph(part(TENSOR, part(9, b"\0" * (MAX_STRUCTURE_BYTES + 1))))
    with tempfile.TemporaryFile() as file:
        file.write(data)
        check_onnx(file, len(data))
