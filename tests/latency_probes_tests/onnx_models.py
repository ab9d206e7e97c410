"""Tiny ONNX models for tests, built with onnx.helper; weights are to be filled or true."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def to_fill(name: str, dims: list[int], data_type: int = TensorProto.FLOAT) -> TensorProto:
    """An initializer whose values are up to the device."""
    tensor = TensorProto(name=name, dims=dims, data_type=data_type)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secateur:fill")
    return tensor


def true(name: str, dims: list[int]) -> TensorProto:
    """An initializer with values of its own."""
    values = np.random.default_rng(0).standard_normal(dims).astype(np.float32)
    return numpy_helper.from_array(values * 0.1, name)


def convnet(
    width: int = 8,
    *,
    batch: int = 1,
    pixels: int = 16,
    op: str = "Relu",
    filled: bool = True,
    norm: bool = True,
) -> bytes:
    """Convolution, batch norm, activation, pooling, linear."""
    tensor = to_fill if filled else true
    vectors = [tensor(name, [width]) for name in ("bias", "gain", "shift", "mean")]
    variance = to_fill("var", [width]) if filled else _ones("var", width)
    weights = [tensor("conv", [width, 3, 3, 3]), tensor("linear", [10, width]), *vectors, variance]
    nodes = [
        helper.make_node("Conv", ["x", "conv", "bias"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["a", "gain", "shift", "mean", "var"], ["b"]),
        helper.make_node(op, ["b" if norm else "a"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "linear"], ["y"], transB=1),
    ]
    if not norm:
        del nodes[1], weights[3:]
    return model(nodes, weights, [batch, 3, pixels, pixels], [batch, 10])


def model(
    nodes: list[onnx.NodeProto],
    weights: list[TensorProto],
    input_dims: list[int | str],
    output_dims: list[int],
) -> bytes:
    """A serialized model with input `x` and output `y`."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_dims)],
        weights,
    )
    opset = helper.make_opsetid("", 18)
    data: bytes = helper.make_model(
        graph, opset_imports=[opset], ir_version=10
    ).SerializeToString()
    return data


def _ones(name: str, width: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(width, np.float32), name)
