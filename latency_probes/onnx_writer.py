"""Puts values into the initializers of an ONNX file that has them elsewhere: marked for filling,
or in other files; and sizes into inputs that leave some free. Works on bytes, like `onnx_reader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from latency_probes.onnx_reader import Field, fields, text

if TYPE_CHECKING:
    import numpy.typing as npt

_GRAPH, _INITIALIZER = 7, 5  # field numbers of ModelProto and GraphProto
_NAME, _RAW_DATA, _EXTERNAL, _LOCATION = 8, 9, 13, 14  # of TensorProto
_INPUT, _TYPE, _TENSOR_TYPE, _SHAPE, _DIM = 11, 2, 1, 2, 1  # of what holds each
Chunk = bytes | memoryview


def with_weights(model: bytes, weights: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The model with these values for the initializers of these names; without any, as it is."""
    if not weights:
        return model
    raw = {
        name: values.data.cast("B") if values.size else memoryview(b"")
        for name, values in weights.items()
    }
    return b"".join(chunks_with(memoryview(model), raw))


def with_sizes(model: bytes, sizes: Mapping[str, Sequence[int]]) -> bytes:
    """The model whose inputs of these names have these shapes; without any, as it is."""
    if not sizes:
        return model
    chunks: list[Chunk] = []
    for field in fields(memoryview(model)):
        if field[0] == _GRAPH:
            chunks += _message(_GRAPH, _with_inputs(field[3], sizes))
        else:
            chunks += _as(field)
    return b"".join(chunks)


def _with_inputs(graph: memoryview, sizes: Mapping[str, Sequence[int]]) -> Iterator[Chunk]:
    for field in fields(graph):
        name = _value_name(field[3]) if field[0] == _INPUT else ""
        if name in sizes:
            yield from _message(_INPUT, _sized(field[3], (_TYPE, _TENSOR_TYPE), sizes[name]))
        else:
            yield from _as(field)


def _value_name(value: memoryview) -> str:
    return next((text(data) for number, _, _, data in fields(value) if number == 1), "")


def _sized(message: memoryview, path: Sequence[int], sizes: Sequence[int]) -> Iterator[Chunk]:
    """The shape, in the messages that hold it; other fields stay."""
    for field in fields(message):
        if path and field[0] == path[0]:
            yield from _message(path[0], _sized(field[3], path[1:], sizes))
        elif not path and field[0] == _SHAPE:
            dims = (_message(_DIM, iter(_as((1, 0, size, memoryview(b""))))) for size in sizes)
            yield from _message(_SHAPE, (chunk for dim in dims for chunk in dim))
        else:
            yield from _as(field)


def chunks_with(model: memoryview, raw: Mapping[str, memoryview]) -> list[Chunk]:
    """The parts of the file in which the initializers of these names hold these bytes; parts that
    stay are not copied."""
    chunks: list[Chunk] = []
    for field in fields(model):
        chunks += _message(_GRAPH, _graph(field[3], raw)) if field[0] == _GRAPH else _as(field)
    return chunks


def _graph(graph: memoryview, raw: Mapping[str, memoryview]) -> Iterator[Chunk]:
    for field in fields(graph):
        name = _tensor_name(field[3]) if field[0] == _INITIALIZER else ""
        if name in raw:
            yield from _message(_INITIALIZER, _tensor(field[3], raw[name]))
        else:
            yield from _as(field)


def _tensor_name(tensor: memoryview) -> str:
    return next((text(data) for number, _, _, data in fields(tensor) if number == _NAME), "")


def _tensor(tensor: memoryview, raw: memoryview) -> Iterator[Chunk]:
    for field in fields(tensor):
        if field[0] not in (_EXTERNAL, _LOCATION):
            yield from _as(field)
    yield from _as((_RAW_DATA, 2, 0, raw))


def _message(number: int, parts: Iterator[Chunk]) -> list[Chunk]:
    chunks = list(parts)
    return [_varint(number << 3 | 2), _varint(sum(map(len, chunks))), *chunks]


def _as(field: Field) -> list[Chunk]:
    number, wire, integer, data = field
    tag = _varint(number << 3 | wire)
    if wire == 0:
        return [tag, _varint(integer)]
    return [tag, _varint(len(data)), data] if wire == 2 else [tag, data]


def _varint(value: int) -> bytes:
    value %= 2**64
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))
