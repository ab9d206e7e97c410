"""Reads an ONNX model and refuses what cannot be run, before any of it is run. Knows no operator.

Nothing outside the given bytes is read: see `files` for tensors in other files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx import ValueInfoProto as ValueInfo
from torch import Tensor

from search.errors import OnnxError
from search.onnx_in.files import parsed
from search.onnx_in.functions import inlined
from search.onnx_in.tensors import DTYPES, MAX_ELEMENTS, MAX_RANK, tensor_of, type_name

OPSETS = range(7, 26)
MAX_NODES = 50_000
DOMAINS = ("", "ai.onnx")
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
FREE = (-1, 0)  # sizes that scripts write where a dimension is free; ONNX Runtime takes them
QUANTIZED = ("Quantize", "QLinear", "ConvInteger", "MatMulInteger", "QAttention", "QGemm", "NBits")

INPUTS: Mapping[int, torch.dtype] = {**DTYPES, TensorProto.UINT8: torch.uint8}


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
    """An input of the model; a size of None is free.

    Attributes:
        dtype: what the module takes: float32 where the file says float16.
        stored: the type in the file.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]
    stored: str = "float"


@dataclass(frozen=True)
class Graph:
    """A checked model: its nodes in an order in which they can run.

    Attributes:
        notes: what will be computed otherwise than the file says, as sentences.
    """

    opset: int
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Tensor]
    nodes: tuple[OnnxNode, ...]
    notes: tuple[str, ...] = ()


def read(data: bytes | ModelProto) -> Graph:
    """The graph of an ONNX model.

    Raises:
        OnnxError: it is damaged, absurd, or needs what a float32 model without control flow,
            custom operators and external files does not have.
    """
    model = parsed(data) if isinstance(data, bytes) else data
    _refuse_extras(model)
    model = inlined(model, MAX_NODES)
    graph = model.graph
    _refuse_quantized(graph)
    opset = _opset(model)
    constants = {tensor.name: tensor_of(tensor) for tensor in graph.initializer}
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
    ordered = _ordered(nodes, known, outputs)
    return Graph(opset, inputs, outputs, constants, ordered, _notes(graph))


def _notes(graph: GraphProto) -> tuple[str, ...]:
    """Of half precision: in inputs, weights, and casts to it."""
    half = TensorProto.FLOAT16
    held = sum(tensor.data_type == half for tensor in graph.initializer)
    held += sum(each.t.data_type == half for node in graph.node for each in node.attribute)
    held += sum(value.type.tensor_type.elem_type == half for value in graph.input)
    casts = sum(
        each.name == "to" and each.i == half
        for node in graph.node
        if node.op_type == "Cast"
        for each in node.attribute
    )
    if not held and not casts:
        return ()
    return (
        f"{held} inputs and constants are float16, and {casts} nodes cast to it: all of them are "
        "computed in float32 here",
    )


def _refuse_extras(model: ModelProto) -> None:
    if model.training_info:
        raise OnnxError("training information is not read, but the model has some")
    if model.graph.sparse_initializer:
        raise OnnxError("sparse weights are not read, but the model has some")
    if len(model.graph.node) > MAX_NODES:
        raise OnnxError(f"nodes must be ≤ {MAX_NODES}, but got {len(model.graph.node)}")


def _refuse_quantized(graph: GraphProto) -> None:
    """By the node, before its weights of other types are met."""
    for node in graph.node:
        if any(part in node.op_type for part in QUANTIZED):
            raise OnnxError(
                f"the model is quantized ({_title(node)}): export it in float32, prune that, and "
                "quantize the result"
            )


def _opset(model: ModelProto) -> int:
    versions = {entry.version for entry in model.opset_import if entry.domain in DOMAINS}
    if len(versions) != 1 or not versions <= set(OPSETS):
        raise OnnxError(
            f"the opset must be one from {OPSETS[0]} to {OPSETS[-1]}, but got "
            f"{sorted(versions) or 'none'}: export the model for another one"
        )
    return int(versions.pop())


def _input(value: ValueInfo) -> Input:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise OnnxError(f"input {value.name!r} must be a tensor of known rank, but is not")
    if kind.elem_type not in INPUTS:
        raise OnnxError(
            f"input {value.name!r} must be float32, float16, int32, int64, uint8 or bool, but is "
            f"{type_name(kind.elem_type)}"
        )
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value not in FREE else None
        for dim in kind.shape.dim
    )
    if any(size is not None and size < 1 for size in shape) or not 1 <= len(shape) <= MAX_RANK:
        raise OnnxError(f"input {value.name!r} must have sizes ≥ 1, but got {list(shape)}")
    if math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise OnnxError(f"input {value.name!r} must be smaller, but has shape {list(shape)}")
    return Input(value.name, INPUTS[kind.elem_type], shape, type_name(kind.elem_type))


def _title(node: NodeProto) -> str:
    return f"{node.op_type} node {node.name or next(iter(node.output), '')!r}"


def _node(node: NodeProto) -> OnnxNode:
    title = _title(node)
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
        return tensor_of(proto.t)
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
