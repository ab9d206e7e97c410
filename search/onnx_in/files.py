"""An ONNX file with its external data, read as one message. Opens nothing outside its folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from search.errors import OnnxError

MAX_BYTES = 2**31 - 1  # protobuf reads and writes no larger message
MAX_DEPTH = 8


def parsed(data: bytes) -> ModelProto:
    """The message in a file's bytes, unchecked but for its having a graph.

    Raises:
        OnnxError: they are no ONNX model.
    """
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise OnnxError(f"the file must be a whole ONNX model, but got: {error}") from None
    if not model.HasField("graph"):
        raise OnnxError("the file must be an ONNX model, but it holds no graph")
    return model


def load_file(path: str | Path) -> ModelProto:
    """The model in a file; values that lie in files beside it are part of the result.

    Args:
        path: an ONNX file. External data must lie in its folder, or below.

    Raises:
        OnnxError: a file is missing, no regular file, shorter than the model says, or outside of
            the folder; or the file is no ONNX model.
    """
    place = Path(path)
    try:
        size = place.stat().st_size
        if size > MAX_BYTES:
            raise OnnxError(f"an ONNX file must have ≤ {MAX_BYTES} bytes, but got {size}")
        model = parsed(place.read_bytes())
    except OSError as error:
        raise OnnxError(f"{place} must be a readable file, but: {error}") from None
    for tensor in external_tensors(model.graph):
        _take_in(tensor, place.parent)
    return model


def external_tensors(graph: GraphProto, depth: int = 0) -> Iterator[TensorProto]:
    """Every tensor, in nodes and their graphs too, whose values lie in another file."""
    if depth > MAX_DEPTH:
        raise OnnxError(f"graphs must be nested at most {MAX_DEPTH} deep, but are deeper")
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                if attribute.t.data_location == TensorProto.EXTERNAL:
                    yield attribute.t
            elif attribute.type == AttributeProto.GRAPH:
                yield from external_tensors(attribute.g, depth + 1)


def _take_in(tensor: TensorProto, folder: Path) -> None:
    """Puts the values from beside the file into the tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    data = _read_part(tensor.name, entries, folder)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = data


def _read_part(name: str, entries: dict[str, str], folder: Path) -> bytes:
    file = _beside(name, entries.get("location", ""), folder)
    try:
        offset = int(entries.get("offset") or 0)
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OnnxError(f"{name!r} must lie in a regular file, but {file.name!r} is none")
            length = int(entries["length"]) if entries.get("length") else status.st_size - offset
            if not (offset >= 0 and 0 <= length <= min(status.st_size - offset, MAX_BYTES)):
                raise OnnxError(
                    f"{name!r} must lie within {file.name!r} of {status.st_size} bytes, but is "
                    f"said to have {length} bytes from {offset} on"
                )
            stream.seek(offset)
            return stream.read(length)
    except OSError as error:
        raise OnnxError(
            f"{name!r} lies in {file.name!r}, which must be readable in the folder of the ONNX "
            f"file, but: {error.strerror}"
        ) from None
    except ValueError as error:
        raise OnnxError(f"the place of {name!r} must be numbers, but: {error}") from None


def _beside(name: str, location: str, folder: Path) -> Path:
    """The file that a location names, with links followed; it must lie in the folder."""
    root = Path(os.path.realpath(folder))
    place = Path(os.path.realpath(root / location)) if "\0" not in location else root.parent
    if not location or Path(location).is_absolute() or not place.is_relative_to(root):
        raise OnnxError(
            f"{name!r} must lie in the folder of the ONNX file, but its location is {location!r}"
        )
    return place
