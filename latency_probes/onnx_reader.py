"""Reads the structure of an ONNX file without the onnx library, which costs a quarter of a second
to import.

Only what filling and replaying need: nodes, initializers, shapes. Every weight must be inline or
be marked for filling; a file that points anywhere else on the disk is refused.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

FILL = "secateur:fill"
_EXTERNAL = 1
_MAX_DEPTH = 8
Field = tuple[int, int, int, memoryview]  # number, wire type, integer, bytes


class OnnxFormatError(ValueError):
    """The bytes are no ONNX model, or one that a device must not run."""


@dataclass(frozen=True)
class Tensor:
    """An initializer. `filled` says that its values are up to the device."""

    name: str
    dims: tuple[int, ...]
    data_type: int
    filled: bool


@dataclass(frozen=True)
class Node:
    """An operator with its integer attributes (the others are not kept); the domain of the
    standard ones is ""."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    domain: str = ""

    @property
    def title(self) -> str:
        """The operator as messages name it: with its domain if that is not the standard one."""
        return f"{self.domain}.{self.op}" if self.domain else self.op


@dataclass(frozen=True)
class Value:
    """A graph input, or the known type of an inner value; 0 stands for a dim that is not fixed,
    which may have a name."""

    name: str
    dims: tuple[int, ...]
    data_type: int
    dim_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Structure:
    """A model's graph; `inputs` are those that a caller must give."""

    nodes: tuple[Node, ...]
    initializers: Mapping[str, Tensor]
    inputs: tuple[Value, ...]


def read(model: bytes) -> Structure:
    """Parse a serialized ModelProto.

    Raises:
        OnnxFormatError: truncated, no graph, or weights that point to another file.
    """
    try:
        graph = None
        for number, _, _, data in fields(memoryview(model)):
            if number == 7:
                graph = data
            elif number == 25:
                _check_function(data)
        if graph is None:
            raise OnnxFormatError("model must have a graph, but it has none")
        return _graph(graph, depth=0)
    except (IndexError, UnicodeDecodeError, struct.error) as error:
        raise OnnxFormatError(f"model must be a valid ONNX file, but: {error}") from error


def _graph(graph: memoryview, depth: int) -> Structure:
    if depth > _MAX_DEPTH:
        raise OnnxFormatError(f"graphs must be nested at most {_MAX_DEPTH} deep")
    nodes: list[Node] = []
    initializers: dict[str, Tensor] = {}
    inputs: list[Value] = []
    for number, _, _, data in fields(graph):
        if number == 1:
            nodes.append(_node(data, depth))
        elif number == 5:
            tensor = _tensor(data)
            initializers[tensor.name] = tensor
        elif number == 11:
            inputs.append(_value(data))
        elif number == 15:
            raise OnnxFormatError("sparse initializers are not supported")
    wanted = tuple(value for value in inputs if value.name not in initializers)
    return Structure(tuple(nodes), initializers, wanted)


def _node(node: memoryview, depth: int) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, tuple[int, ...]] = {}
    op = domain = ""
    for number, _, _, data in fields(node):
        if number == 1:
            inputs.append(text(data))
        elif number == 2:
            outputs.append(text(data))
        elif number == 4:
            op = text(data)
        elif number == 5:
            name, values = _attribute(data, depth)
            attributes[name] = values
        elif number == 7:
            domain = text(data)
    domain = "" if domain == "ai.onnx" else domain
    return Node(op, tuple(inputs), tuple(outputs), attributes, domain)


def _attribute(attribute: memoryview, depth: int) -> tuple[str, tuple[int, ...]]:
    name = ""
    values: list[int] = []
    for number, wire, integer, data in fields(attribute):
        if number == 1:
            name = text(data)
        elif number in (3, 8):
            values.extend(_integers(wire, integer, data))
        elif number in (5, 10):
            _refuse_fill(_tensor(data))
        elif number in (6, 11):
            for tensor in _graph(data, depth + 1).initializers.values():
                _refuse_fill(tensor)
    return name, tuple(values)


def _check_function(function: memoryview) -> None:
    for number, _, _, data in fields(function):
        if number == 7:
            _node(data, depth=0)


def _refuse_fill(tensor: Tensor) -> None:
    if tensor.filled:
        raise OnnxFormatError(
            f"only a main graph's initializers can be filled, not {tensor.name!r}"
        )


def _tensor(tensor: memoryview) -> Tensor:
    name, data_type, location = "", 0, 0
    dims: list[int] = []
    entries: dict[str, str] = {}
    for number, wire, integer, data in fields(tensor):
        if number == 1:
            dims.extend(_integers(wire, integer, data))
        elif number == 2:
            data_type = integer
        elif number == 8:
            name = text(data)
        elif number == 13:
            entry = {key: text(value) for key, _, _, value in fields(data)}
            entries[entry.get(1, "")] = entry.get(2, "")
        elif number == 14:
            location = integer
    filled = location == _EXTERNAL and entries == {"location": FILL}
    if not filled and (location == _EXTERNAL or entries):
        raise OnnxFormatError(
            f"initializer {name!r} must be inline or have the location {FILL!r}, but got {entries}"
        )
    return Tensor(name, tuple(dims), data_type, filled)


def _value(value: memoryview) -> Value:
    name, data_type = "", 0
    dims: list[int] = []
    names: list[str] = []
    for number, _, _, data in fields(value):
        if number == 1:
            name = text(data)
        elif number == 2:
            for _, _, _, tensor_type in fields(data):
                for part, _, integer, shape in fields(tensor_type):
                    if part == 1:
                        data_type = integer
                    elif part == 2:
                        found = [_dim(dim) for _, _, _, dim in fields(shape)]
                        dims, names = [size for size, _ in found], [word for _, word in found]
    return Value(name, tuple(dims), data_type, tuple(names))


def _dim(dim: memoryview) -> tuple[int, str]:
    """A size, 0 where it is free (scripts write -1 as well), and its name."""
    size, name = 0, ""
    for number, _, integer, data in fields(dim):
        if number == 1:
            size = max(integer, 0)
        elif number == 2:
            name = text(data)
    return size, name


def text(data: memoryview) -> str:
    """The value of a string field."""
    return str(data, "utf-8")


def _integers(wire: int, integer: int, packed: memoryview) -> list[int]:
    if wire == 0:
        return [integer]
    values, place = [], 0
    while place < len(packed):
        value, place = _varint(packed, place)
        values.append(value)
    return values


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of one protobuf message, in order.

    Raises:
        OnnxFormatError, IndexError: the message is truncated or malformed.
    """
    place, nothing = 0, memoryview(b"")
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            integer, place = _varint(data, place)
            yield number, wire, integer, nothing
            continue
        if wire not in (1, 2, 5):
            raise OnnxFormatError(f"model must be a valid ONNX file, but has wire type {wire}")
        size, place = _varint(data, place) if wire == 2 else ({1: 8, 5: 4}[wire], place)
        if not 0 <= size <= len(data) - place:
            raise OnnxFormatError("model must be a whole ONNX file, but it is truncated")
        yield number, wire, 0, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value - 2**64 if value >= 2**63 else value), place
    raise OnnxFormatError("model must be a valid ONNX file, but a number is too long")
