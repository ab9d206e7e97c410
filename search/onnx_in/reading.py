"""Reads an ONNX file and refuses what cannot be run, before any of it is run. Knows no operator.

Nothing outside the given bytes is read: tensors in other files are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx import ValueInfoProto as ValueInfo
from torch import Tensor

from search.errors import OnnxError

OPSETS = range(11, 24)
MAX_NODES = 50_000
MAX_ELEMENTS = 2**30
MAX_RANK = 8
SMALL = 64  # elements: a wider double or byte constant is a weight, and weights are float32
DOMAINS = ("", "ai.onnx")
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")

DTYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
_NARROW: Mapping[int, torch.dtype] = {
    TensorProto.DOUBLE: torch.float32,
    TensorProto.UINT8: torch.int64,
    TensorProto.INT8: torch.int64,
    TensorProto.INT16: torch.int64,
    TensorProto.UINT16: torch.int64,
    TensorProto.UINT32: torch.int64,
}


@dataclass(frozen=True)
class OnnxNode:
    """One operator call; an input that is left out is "".

    Attributes:
        attributes: by name; tensors are torch tensors, texts are str.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def title(self) -> str:
        """How messages name it."""
        return f"{self.op} node {self.name or self.outputs[0]!r}"


@dataclass(frozen=True)
class Input:
    """An input of the model; a size of None is free."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """A checked model: its nodes in an order in which they can run."""

    opset: int
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Tensor]
    nodes: tuple[OnnxNode, ...]


def read(data: bytes | ModelProto) -> Graph:
    """The graph of an ONNX model.

    Raises:
        OnnxError: it is damaged, absurd, or needs what a float32 model without control flow,
            custom operators and external files does not have.
    """
    model = parsed(data) if isinstance(data, bytes) else data
    graph = model.graph
    _refuse_extras(model)
    opset = _opset(model)
    constants = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    if len(constants) < len(graph.initializer):
        raise OnnxError("initializers must have names of their own, but some share one")
    nodes = tuple(_node(node) for node in graph.node)
    inputs = tuple(_input(value) for value in graph.input if value.name not in constants)
    outputs = tuple(value.name for value in graph.output)
    if not inputs or not outputs or not nodes:
        raise OnnxError(
            "the graph must have inputs, nodes and outputs, but got "
            f"{len(inputs)}, {len(nodes)} and {len(outputs)}"
        )
    known = [*constants, *(value.name for value in inputs)]
    return Graph(opset, inputs, outputs, constants, _ordered(nodes, known, outputs))


def parsed(data: bytes) -> ModelProto:
    """The file's message, unchecked but for its having a graph."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise OnnxError(f"the file must be a whole ONNX model, but got: {error}") from None
    if not model.HasField("graph"):
        raise OnnxError("the file must be an ONNX model, but it holds no graph")
    return model


def _refuse_extras(model: ModelProto) -> None:
    if model.functions:
        raise OnnxError(f"functions are not read, but the model has {model.functions[0].name!r}")
    if model.training_info:
        raise OnnxError("training information is not read, but the model has some")
    if model.graph.sparse_initializer:
        raise OnnxError("sparse weights are not read, but the model has some")
    if len(model.graph.node) > MAX_NODES:
        raise OnnxError(f"nodes must be ≤ {MAX_NODES}, but got {len(model.graph.node)}")


def _opset(model: ModelProto) -> int:
    versions = {entry.version for entry in model.opset_import if entry.domain in DOMAINS}
    if len(versions) != 1 or not versions <= set(OPSETS):
        raise OnnxError(
            f"the opset must be one from {OPSETS[0]} to {OPSETS[-1]}, but got "
            f"{sorted(versions) or 'none'}"
        )
    return int(versions.pop())


def _input(value: ValueInfo) -> Input:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise OnnxError(f"input {value.name!r} must be a tensor of known rank, but is not")
    if kind.elem_type not in DTYPES:
        raise OnnxError(
            f"input {value.name!r} must be float32, int32, int64 or bool, but is "
            f"{_type_name(kind.elem_type)}"
        )
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    if any(size is not None and size < 1 for size in shape) or not 1 <= len(shape) <= MAX_RANK:
        raise OnnxError(f"input {value.name!r} must have sizes ≥ 1, but got {list(shape)}")
    if math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise OnnxError(f"input {value.name!r} must be smaller, but has shape {list(shape)}")
    return Input(value.name, DTYPES[kind.elem_type], shape)


def _type_name(number: int) -> str:
    names: dict[int, str] = {v: k.lower() for k, v in TensorProto.DataType.items()}
    return names.get(number, f"type {number}")


def _tensor(proto: TensorProto) -> Tensor:
    """A constant: float32, int32, int64 or bool; narrow types are widened where they are small."""
    name, shape = proto.name, tuple(proto.dims)
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        raise OnnxError(f"{name!r} lies in another file; save the model with its weights inside")
    if any(size < 0 for size in shape) or len(shape) > MAX_RANK:
        raise OnnxError(f"{name!r} must have sizes ≥ 0, but got {list(shape)}")
    count = math.prod(shape)
    narrow = proto.data_type in _NARROW and count <= SMALL
    if proto.data_type not in DTYPES and not narrow:
        raise OnnxError(
            f"weights must be float32, but {name!r} is {_type_name(proto.data_type)} "
            f"of shape {list(shape)}; export the model in float32"
        )
    _check_length(proto, count)
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError) as error:
        raise OnnxError(f"{name!r} must be a whole tensor, but got: {error}") from None
    dtype = (_NARROW if narrow else DTYPES)[proto.data_type]
    return torch.from_numpy(np.array(array)).to(dtype)


def _check_length(proto: TensorProto, count: int) -> None:
    """The product of the sizes against the bytes that are there, before anything is allocated."""
    if count > MAX_ELEMENTS:
        raise OnnxError(f"{proto.name!r} must be smaller, but has shape {list(proto.dims)}")
    fields = (proto.float_data, proto.int32_data, proto.int64_data, proto.double_data)
    width: dict[int, int] = {TensorProto.BOOL: 1, TensorProto.UINT8: 1, TensorProto.INT8: 1}
    width |= {TensorProto.INT16: 2, TensorProto.UINT16: 2}
    width |= {TensorProto.INT64: 8, TensorProto.DOUBLE: 8}
    stored = (
        len(proto.raw_data) / width.get(proto.data_type, 4)
        if proto.HasField("raw_data")
        else sum(map(len, fields)) + len(proto.uint64_data)
    )
    if stored != count:
        raise OnnxError(
            f"{proto.name!r} of shape {list(proto.dims)} must hold {count} values, "
            f"but got {stored:g}"
        )


def _node(node: NodeProto) -> OnnxNode:
    title = f"{node.op_type} node {node.name or next(iter(node.output), '')!r}"
    if node.domain not in DOMAINS:
        raise OnnxError(f"custom operators cannot be run, but {title} is of {node.domain!r}")
    if node.op_type in CONTROL_FLOW:
        raise OnnxError(f"control flow cannot be pruned, but the model has {title}")
    if not any(node.output):
        raise OnnxError(f"{title} must have an output, but has none")
    attributes = {each.name: _attribute(each, title) for each in node.attribute}
    if node.op_type == "ConstantOfShape" and isinstance(attributes.get("value"), Tensor):
        attributes["value"] = attributes["value"].reshape(-1)[0].item()
    return OnnxNode(node.op_type, node.name, tuple(node.input), tuple(node.output), attributes)


def _attribute(proto: AttributeProto, title: str) -> Any:
    kinds = AttributeProto
    if proto.type == kinds.TENSOR:
        return _tensor(proto.t)
    if proto.type == kinds.STRING:
        return proto.s.decode(errors="replace")
    if proto.type in (kinds.INT, kinds.FLOAT):
        return proto.i if proto.type == kinds.INT else proto.f
    if proto.type in (kinds.INTS, kinds.FLOATS):
        return tuple(proto.ints if proto.type == kinds.INTS else proto.floats)
    if proto.type == kinds.STRINGS:
        return tuple(text.decode(errors="replace") for text in proto.strings)
    raise OnnxError(f"attribute {proto.name!r} of {title} is of a kind that is not read")


def _ordered(
    nodes: tuple[OnnxNode, ...], known: Iterable[str], outputs: tuple[str, ...]
) -> tuple[OnnxNode, ...]:
    """The nodes that the outputs need, each behind those that it reads."""
    makers: dict[str, OnnxNode] = {}
    given = set(known)
    for each in nodes:
        for name in filter(None, each.outputs):
            if name in makers or name in given:
                raise OnnxError(f"every value must be made once, but {name!r} is made twice")
            makers[name] = each
    order: dict[int, OnnxNode] = {}
    open_nodes: set[int] = set()
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(outputs)]
    while stack:
        name, left = stack.pop()
        node = makers.get(name)
        if node is None:
            if name not in given:
                raise OnnxError(f"{name!r} is read, but nothing makes it")
        elif left:
            open_nodes.discard(id(node))
            order.setdefault(id(node), node)
        elif id(node) in open_nodes:
            raise OnnxError(f"the graph must not have cycles, but {node.title} reads itself")
        elif id(node) not in order:
            open_nodes.add(id(node))
            stack.append((name, True))
            stack.extend((each, False) for each in reversed(node.inputs) if each)
    return tuple(order.values())
