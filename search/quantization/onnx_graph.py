"""Reads an ONNX graph as operators, and writes Q/DQ where they round.

The graph is one that `search.skeleton.export` wrote: its layers have names. Weights may have no
values (a skeleton); scales are placeholders then, on which no latency depends.

| symbol | meaning |
|---|---|
| s, z | scale and zero point: x ≈ s (q − z) |
| s_x, s_w | scale of a layer's input, and of its weight per output channel |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from search.errors import QuantizationError
from search.quantization.formats import Format
from search.quantization.places import Op, Places, places
from search.quantization.scales import Affine, affine, bias_integers, weight_integers

LEAST_OPSET = 13  # Q and DQ per channel
# So small that what is rounded lies within any Clip before it, as it does with true scales: ONNX
# Runtime drops the Clip then. Behind ReLU6, 0.05 (0 to 12.75) made MobileNetV2 in int8 look 2.1
# times as slow as in float32, which takes 0.96 in truth.
_PLACEHOLDER = 0.001
_JOINS = frozenset(("Add", "Concat"))
# What these make of values that are not negative is not negative either.
_OF_FIRST = frozenset(
    (
        "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMax", "ReduceMean",
        "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
    )
)  # fmt: skip
_TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int32": TensorProto.INT32}

Ranges = Mapping[str, tuple[float, float]]  # key -> least and greatest value


def ops_of(graph: GraphProto) -> list[Op]:
    """The operators on values; what computes with constants alone is none."""
    constants = {tensor.name for tensor in graph.initializer}
    ops = []
    for node in graph.node:
        inputs = tuple(name for name in node.input if name and name not in constants)
        if not inputs:
            constants.update(node.output)
            continue
        role, rounds = _role(node, inputs, graph, constants)
        layer = node.name if role == "layer" else ""
        ops.append(Op(node.output[0], inputs, role, layer, rounds))
        ops += [Op(name, inputs, "other") for name in node.output[1:] if name]
    return ops


def with_precision(
    proto: ModelProto,
    int8_layers: Collection[str],
    form: Format,
    ranges: Ranges | None = None,
) -> ModelProto:
    """A copy whose layers `int8_layers` run in int8.

    Args:
        proto: float weights, or none (a skeleton).
        form: the integers that stand for numbers.
        ranges: of every rounded value; None for placeholders, with which weights stay float
            behind a Q of their own. Runtimes fold that when they load the file.

    Raises:
        QuantizationError: the graph has no such layer, or a value no range.
    """
    result = ModelProto()
    result.CopyFrom(proto)
    writer = _Writer(result.graph, form, ranges)
    ops = ops_of(result.graph)
    missing = set(int8_layers) - {op.layer for op in ops}
    if missing:
        raise QuantizationError(
            f"layers in int8 must be convolutions or linear layers of the graph, but "
            f"{sorted(missing)[:5]} are not"
        )
    outputs = [value.name for value in result.graph.output]
    writer.write(places(ops, outputs, int8_layers), set(int8_layers))
    for opset in result.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, LEAST_OPSET)
    return result


def with_unsigned_bytes(proto: ModelProto) -> ModelProto:
    """A copy with unsigned bytes alone, the same numbers: what is signed is shifted by 128 with
    its zero point."""
    result = ModelProto()
    result.CopyFrom(proto)
    weights = {tensor.name: tensor for tensor in result.graph.initializer}
    zeros = {
        node.output[0]: node.attribute[0].t
        for node in result.graph.node
        if node.op_type == "Constant"
    }
    rounding = [
        n for n in result.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    shifted = {node.input[2] for node in rounding} | {node.input[0] for node in rounding}
    for name, tensor in (zeros | weights).items():
        if name in shifted and tensor.data_type == TensorProto.INT8:
            moved = numpy_helper.to_array(tensor).astype(np.int16) + 128
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.uint8), tensor.name))
    return result


def _role(
    node: NodeProto, inputs: Sequence[str], graph: GraphProto, constants: Collection[str]
) -> tuple[Any, bool]:
    """The role of a node, and whether it makes a rounded output."""
    if node.name and node.op_type == "Conv" and len(inputs) == 1:
        return "layer", True
    if node.name and node.op_type in ("Gemm", "MatMul") and inputs == (node.input[0],):
        return "layer", False
    if node.op_type in _JOINS and len(set(inputs)) == len(node.input):
        return "join", False
    if _is_rectifier(node, graph):
        return "rectifier", False
    return "other", False


def _is_rectifier(node: NodeProto, graph: GraphProto) -> bool:
    """Whether a node cuts off what is below zero."""
    is_clip = node.op_type == "Clip" and _constant(graph, node.input[1]) == 0.0
    return node.op_type == "Relu" or is_clip


def _nonnegative(graph: GraphProto) -> set[str]:
    """The values that no weight and no input makes negative: their lowest integer is zero."""
    found: set[str] = set()
    for node in graph.node:
        of_first = node.op_type in _OF_FIRST and node.input[0] in found
        of_all = node.op_type in _JOINS and found.issuperset(node.input)
        if of_first or of_all or _is_rectifier(node, graph):
            found.update(node.output)
    return found


def _constant(graph: GraphProto, name: str) -> float | None:
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output:
            return float(numpy_helper.to_array(node.attribute[0].t).ravel()[0])
    return None


class _Writer:
    """Puts Q and DQ into a graph, which is written anew."""

    def __init__(self, graph: GraphProto, form: Format, ranges: Ranges | None) -> None:
        self._graph, self._form, self._ranges = graph, form, ranges
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[NodeProto] = []
        self._constants: list[NodeProto] = []
        self._replaced: dict[str, str] = {}  # value -> what int8 operators read
        self._scales: dict[str, Affine] = {}  # what int8 operators read -> its scale
        self._weights: dict[str, str] = {}  # weight -> what layers read in its place
        self._nonnegative = _nonnegative(graph) if ranges is None else set()

    def write(self, where: Places, int8_layers: set[str]) -> None:
        nodes = list(self._graph.node)
        outputs = {value.name for value in self._graph.output}
        for value in self._graph.input:
            self._round_if(value.name, where)
        for node in nodes:
            self._read(node, where)
            if node.name in int8_layers:
                self._integers(node)
            self._nodes.append(node)
            for name in list(node.output):
                if name in outputs and name in where.rounded:
                    node.output[0] = f"{name}_float"
                    self._round(node.output[0], where.rounded[name], where, name)
                else:
                    self._round_if(name, where)
        del self._graph.node[:]
        self._graph.node.extend([*self._constants, *self._nodes])
        read = {name for node in self._graph.node for name in node.input}
        left = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(left)

    def _read(self, node: NodeProto, where: Places) -> None:
        """What is rounded is read rounded, by all or by int8 operators alone."""
        is_int8 = node.output[0] in where.int8 if node.output else False
        for place, name in enumerate(node.input):
            if name in where.rounded or (is_int8 and name in where.entering):
                node.input[place] = self._replaced.get(name, name)

    def _round_if(self, value: str, where: Places) -> None:
        key = where.key(value)
        if key is not None:
            self._round(value, key, where, f"{value}_rounded")

    def _round(self, value: str, key: str, where: Places, made: str) -> None:
        scale = self._affine(key, key in where.rectified or value in self._nonnegative)
        given = (
            self._scalar(made, scale),
            self._zero(made, self._form.activation.name, scale.zero),
        )
        self._nodes.append(helper.make_node("QuantizeLinear", [value, *given], [f"{made}_q"]))
        self._nodes.append(helper.make_node("DequantizeLinear", [f"{made}_q", *given], [made]))
        self._replaced[value] = made
        self._scales[made] = scale

    def _affine(self, key: str, rectified: bool) -> Affine:
        kind = self._form.activation
        if self._ranges is None:
            return Affine(_PLACEHOLDER, kind.low if rectified else kind.middle)
        if key not in self._ranges:
            raise QuantizationError(f"ranges must hold {key!r}, but hold no such value")
        return affine(*self._ranges[key], kind)

    def _integers(self, layer: NodeProto) -> None:
        """Weight and bias of an int8 layer."""
        name = layer.input[1]
        tensor, axis = self._tensors[name], _channel_axis(layer)
        scale = self._weight(tensor, axis)
        if layer.op_type != "MatMul" and len(layer.input) > 2 and layer.input[2]:
            bias = self._tensors[layer.input[2]]
            layer.input[2] = self._bias(bias, scale * self._scales[layer.input[0]].scale)
        layer.input[1] = self._weights[name]

    def _weight(self, tensor: TensorProto, axis: int) -> NDArray[np.float32]:
        """Rounds a weight, once for all layers that read it; its scale per channel."""
        kind, made = self._form.weight, f"{tensor.name}_rounded"
        integers: NDArray[Any] | None = None
        if self._ranges is None:
            scale = np.full(tensor.dims[axis], _PLACEHOLDER / kind.high, dtype=np.float32)
        else:
            integers, scale = weight_integers(numpy_helper.to_array(tensor), axis, kind)
        if tensor.name in self._weights:
            return scale
        self._weights[tensor.name] = made
        given = self._vectors(made, scale, kind.name, kind.middle)
        if integers is None:
            rounding = [tensor.name, *given]
            self._constants.append(
                helper.make_node("QuantizeLinear", rounding, [f"{made}_q"], axis=axis)
            )
        else:
            self._add(f"{made}_q", integers)
        self._constants.append(
            helper.make_node("DequantizeLinear", [f"{made}_q", *given], [made], axis=axis)
        )
        return scale

    def _bias(self, bias: TensorProto, scale: NDArray[np.float32]) -> str:
        made = f"{bias.name}_rounded_{len(self._constants)}"
        if self._ranges is None:
            integers = np.zeros(bias.dims, dtype=np.int32)
        else:
            integers = bias_integers(numpy_helper.to_array(bias), scale)
        self._add(f"{made}_q", integers)
        given = self._vectors(made, scale, "int32", 0)
        self._constants.append(
            helper.make_node("DequantizeLinear", [f"{made}_q", *given], [made], axis=0)
        )
        return made

    def _vectors(
        self, made: str, scale: NDArray[np.float32], kind: str, zero: int
    ) -> tuple[str, str]:
        self._node(f"{made}_scale", helper.make_tensor("", TensorProto.FLOAT, scale.shape, scale))
        zeros = [zero] * len(scale)
        self._node(f"{made}_zero", helper.make_tensor("", _TYPES[kind], scale.shape, zeros))
        return f"{made}_scale", f"{made}_zero"

    def _scalar(self, made: str, scale: Affine) -> str:
        self._node(f"{made}_scale", helper.make_tensor("", TensorProto.FLOAT, [], [scale.scale]))
        return f"{made}_scale"

    def _zero(self, made: str, kind: str, zero: int) -> str:
        self._node(f"{made}_zero", helper.make_tensor("", _TYPES[kind], [], [zero]))
        return f"{made}_zero"

    def _node(self, name: str, value: TensorProto) -> None:
        if all(name not in node.output for node in self._constants):
            self._constants.append(helper.make_node("Constant", [], [name], value=value))

    def _add(self, name: str, values: NDArray[Any]) -> None:
        self._graph.initializer.append(numpy_helper.from_array(values, name))


def _channel_axis(layer: NodeProto) -> int:
    return 1 if layer.op_type == "MatMul" else 0
