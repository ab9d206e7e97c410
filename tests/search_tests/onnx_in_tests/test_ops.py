"""One case per operator at least: the module computes what ONNX Runtime does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from search.onnx_in import from_onnx
from search.onnx_in.layers import LAYERS
from search.onnx_in.ops.table import OPS
from tests.search_tests.onnx_in_tests.graphs import (
    Array,
    assert_equal,
    by_runtime,
    by_torch,
    model,
    noise,
    one,
)

X = noise(2, 6, 4, 5)
FLAT = noise(2, 6)
ABOVE = np.abs(X) + 0.5
MASK = X > 0
STEPS = noise(5, 2, 4)
QUERY = noise(2, 4, 5, 3)
Case = tuple[ModelProto, list[Array]]


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def two(op: str, a: Array, b: Array, opset: int = 17, **attributes: Any) -> Case:
    """A node of two inputs."""
    return model([helper.make_node(op, ["a", "b"], ["y"], **attributes)], {"a": a, "b": b},
                 opset=opset), [a, b]  # fmt: skip


def chain(*nodes: Any, x: Array = X, opset: int = 17, **constants: Array) -> Case:
    """Several nodes from x to y."""
    return model(list(nodes), {"x": x}, constants, opset=opset), [x]


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    names = [name if name != "_" else "" for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), **attributes)


def tensor(value: Array) -> TensorProto:
    return numpy_helper.from_array(value)


def given(op: str, *inputs: Array, opset: int = 23, **attributes: Any) -> Case:
    """A node of which everything is an input of the model."""
    named = {f"x{place}": array for place, array in enumerate(inputs)}
    made = helper.make_node(op, list(named), ["y"], **attributes)
    return model([made], named, opset=opset), list(inputs)


CHANNELS = tuple(np.abs(noise(6, seed=seed)) + 0.5 for seed in range(4))
KERNEL = noise(8, 6, 3, 3)

CASES: dict[str, Case] = {
    **{op: one(op, X) for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish",
                                 "Identity", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid",
                                 "Sign", "Sin", "Softplus", "Softsign", "Tanh", "Selu", "Elu",
                                 "Celu", "HardSigmoid", "LeakyRelu", "ThresholdedRelu",
                                 "Flatten", "Transpose", "Shape", "Size", "GlobalAveragePool",
                                 "GlobalMaxPool", "LogSoftmax", "Softmax", "Atan", "Cosh", "Sinh",
                                 "Tan")},
    **{op: one(op, np.tanh(X)) for op in ("Acos", "Asin")},
    **{f"{op} reduced": one(op, ABOVE, axes=[1, 3], keepdims=0)
       for op in ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
                  "ReduceMin", "ReduceProd", "ReduceSumSquare")},
    **{f"{op} paired": two(op, X, noise(2, 6, 4, 5, seed=1))
       for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Greater", "Less",
                  "GreaterOrEqual", "LessOrEqual", "Equal")},
    **{f"{op} logical": two(op, MASK, noise(2, 6, 4, 5, seed=2) > 0)
       for op in ("And", "Or", "Xor")},
    "Add bias": one("Add", X, noise(6, 1, 1)),
    "Attention": given("Attention", QUERY, *noise(2, 2, 4, 6, 3)),
    "Attention masked": given("Attention", QUERY, *noise(2, 2, 4, 6, 3), noise(2, 1, 5, 6),
                              is_causal=1, scale=0.3),
    "Attention allowed": given("Attention", QUERY, *noise(2, 2, 2, 6, 3),
                               noise(2, 1, 5, 6) > -1),
    "Attention capped": given("Attention", QUERY, *noise(2, 2, 2, 6, 3), softcap=0.7,
                              is_causal=1),
    "Attention flat": given("Attention", noise(2, 5, 12), *noise(2, 2, 6, 6), q_num_heads=4,
                            kv_num_heads=2),
    "ArgMax": one("ArgMax", X, axis=1),
    "ArgMin": one("ArgMin", X, axis=2, keepdims=0),
    "AveragePool": one("AveragePool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    "AveragePool counted": one("AveragePool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1],
                               count_include_pad=1),
    "AveragePool ceil": one("AveragePool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "AveragePool uneven": one("AveragePool", X, kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    "BatchNormalization": one("BatchNormalization", X, *CHANNELS),
    "BatchNormalization flat": one("BatchNormalization", FLAT, *CHANNELS, epsilon=1e-3),
    "Cast": chain(node("Cast", "x", "i", to=7), node("Cast", "i", to=1), x=X * 5),
    "Cast to bool": chain(node("Cast", "x", "b", to=9), node("Cast", "b", to=6)),
    "CastLike": two("CastLike", np.array([[1, 2]]), FLAT),
    "CastLike whole": one("CastLike", X * 9, ints(1)),
    "Clip": one("Clip", X, scalar(-0.5), scalar(0.5)),
    "Clip below": one("Clip", X, None, scalar(0.5)),
    "Clip six": one("Clip", X * 5, scalar(0), scalar(6)),
    "Concat": chain(node("Relu", "x", "r"), node("Concat", "x r x", axis=2)),
    "Constant": chain(node("Constant", "", "c", value=tensor(noise(6, 1, 1))),
                      node("Mul", "x c")),
    "Constant floats": chain(node("Constant", "", "c", value_floats=[1.0, 2.0, 3.0, 4.0, 5.0]),
                             node("Mul", "x c")),
    "ConstantOfShape": chain(node("Shape", "x", "s"),
                             node("ConstantOfShape", "s", "c", value=tensor(floats(2.5))),
                             node("Mul", "x c")),
    "Conv": one("Conv", X, KERNEL, noise(8), pads=[1, 1, 1, 1], strides=[2, 1]),
    "Conv bare": one("Conv", X, KERNEL),
    "Conv grouped": one("Conv", X, noise(6, 2, 3, 3), group=3, dilations=[1, 2]),
    "Conv 1d": one("Conv", noise(2, 6, 9), noise(4, 6, 3), noise(4), pads=[0, 2]),
    "Conv 3d": one("Conv", noise(2, 2, 4, 4, 4), noise(3, 2, 2, 2, 2)),
    "Conv same": one("Conv", X, KERNEL, auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv same lower": one("Conv", X, noise(8, 6, 2, 2), auto_pad="SAME_LOWER"),
    "Conv uneven": one("Conv", X, KERNEL, pads=[0, 1, 2, 0]),
    "Conv computed": two("Conv", X, noise(2, 6, 3, 3)),
    "ConvTranspose": one("ConvTranspose", X, noise(6, 3, 2, 2), noise(3), strides=[2, 2]),
    "ConvTranspose grouped": one("ConvTranspose", X, noise(6, 2, 3, 3), group=2, strides=[2, 2],
                                 pads=[1, 1, 1, 1], output_padding=[1, 0]),
    "CumSum": one("CumSum", X, ints(1)),
    "CumSum exclusive": one("CumSum", X, ints(1), exclusive=1, reverse=1),
    "DepthToSpace": one("DepthToSpace", noise(2, 8, 3, 3), blocksize=2),
    "DepthToSpace crd": one("DepthToSpace", noise(2, 8, 3, 3), blocksize=2, mode="CRD"),
    "Div whole": two("Div", np.array([[7, -7]]), np.array([[2, 2]])),
    "Dropout": one("Dropout", X),
    "Einsum": one("Einsum", X, noise(6, 3), equation="nchw,cd->ndhw"),
    "Expand": one("Expand", noise(2, 1, 5), ints(1, 3, 5)),
    "GRU": one("GRU", STEPS, noise(1, 9, 4), noise(1, 9, 3), noise(1, 18), outputs=2,
               hidden_size=3, linear_before_reset=1),
    "GRU both": one("GRU", STEPS, noise(2, 9, 4), noise(2, 9, 3), outputs=2, hidden_size=3,
                    linear_before_reset=1, direction="bidirectional"),
    "Gather": one("Gather", X, ints(2, 0), axis=1),
    "Gather one": one("Gather", X, np.array(-1), axis=1),
    "Gather neighbours": one("Gather", X, ints(1, 2, 3), axis=1),
    "Gather square": one("Gather", X, np.array([[0, 5], [1, 1]]), axis=1),
    "Gather rows": chain(node("Gather", "w x"), x=np.array([[0, 3], [2, 2]]), w=noise(4, 3)),
    "Gather computed": chain(node("ArgMax", "x", "i", axis=1), node("Gather", "w i", axis=1),
                             w=noise(2, 6)),
    "GatherElements": two("GatherElements", FLAT, np.array([[0, -1], [5, 2]]), axis=1),
    "GatherND": two("GatherND", FLAT, np.array([[1, 5], [0, 2]])),
    "Gelu": one("Gelu", X, opset=20),
    "Gelu tanh": one("Gelu", X, opset=20, approximate="tanh"),
    "Gemm": one("Gemm", FLAT, noise(3, 6), noise(3), transB=1),
    "Gemm plain": one("Gemm", FLAT, noise(6, 3), noise(1, 3), alpha=0.5, beta=2.0),
    "Gemm turned": two("Gemm", FLAT, noise(2, 3), transA=1),
    "GroupNormalization": one("GroupNormalization", X, noise(6), noise(6), num_groups=3, opset=21),
    "GridSample": two("GridSample", X, np.tanh(noise(2, 3, 5, 2)), mode="bilinear"),
    "GridSample cubic": two("GridSample", X, 2 * np.tanh(noise(2, 3, 5, 2)), 20,
                            mode="cubic", padding_mode="border", align_corners=1),
    "HardSigmoid sixth": one("HardSigmoid", X * 3, alpha=1 / 6),
    "InstanceNormalization": one("InstanceNormalization", X, CHANNELS[0], CHANNELS[1]),
    "LSTM": one("LSTM", STEPS, noise(1, 12, 4), noise(1, 12, 3), noise(1, 24), outputs=3,
                hidden_size=3),
    "LSTM both": one("LSTM", STEPS, noise(2, 12, 4), noise(2, 12, 3), noise(2, 24), None,
                     np.zeros((2, 2, 3), np.float32), outputs=3, hidden_size=3,
                     direction="bidirectional"),
    "LSTM back": chain(
        node("Shape", "x", "s"), node("Gather", "s one", "n"),
        node("Concat", "one n three", "c", axis=0), node("ConstantOfShape", "c", "zeros"),
        node("LSTM", "x w r _ _ zeros zeros", hidden_size=3, direction="reverse"),
        x=STEPS, one=ints(1), three=ints(3), w=noise(1, 12, 4), r=noise(1, 12, 3),
    ),
    "IsNaN": chain(node("Sqrt", "x", "s"), node("IsNaN", "s", "n"), node("Cast", "n", to=1)),
    "LRN": one("LRN", X, size=3),
    "LayerNormalization": one("LayerNormalization", X, noise(4, 5), noise(4, 5), axis=2),
    "LayerNormalization last": one("LayerNormalization", X, noise(5)),
    "Log": one("Log", ABOVE),
    "LpNormalization": one("LpNormalization", X, axis=1),
    "LpNormalization sum": one("LpNormalization", X, p=1),
    "MatMul": one("MatMul", X, noise(5, 3)),
    "MatMul biased": chain(node("MatMul", "x w", "p"), node("Add", "b p"),
                           w=noise(5, 3), b=noise(3)),
    "MatMul computed": two("MatMul", X, noise(2, 6, 5, 3)),
    "MatMul left": chain(node("MatMul", "w x"), w=noise(3, 4)),
    "Max const": one("Max", X, noise(5)),
    "MaxPool": one("MaxPool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    "MaxPool ceil": one("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "MaxPool uneven": one("MaxPool", X - 9, kernel_shape=[2, 2], pads=[0, 1, 1, 0]),
    "Mish": one("Mish", X, opset=18),
    "Mod": two("Mod", X, ABOVE, fmod=1),
    "Not": one("Not", MASK),
    "OneHot": one("OneHot", np.array([[0, 3], [-1, 9]]), np.array(4), floats(-1, 2), axis=1),
    "PRelu": one("PRelu", X, noise(6, 1, 1)),
    "PRelu wide": one("PRelu", X, noise(4, 5)),
    "Pad": one("Pad", X, ints(0, 0, 1, 2, 0, 1, 0, 1), scalar(3)),
    "Pad axes": one("Pad", X, ints(1, 2), None, ints(3), opset=18),
    "Pad crop": one("Pad", X, ints(0, 0, -1, 0, 0, 0, 0, 1)),
    "Pad edge": one("Pad", X, ints(0, 0, 1, 2, 0, 0, 0, 1), mode="edge"),
    "Pad reflect": one("Pad", X, ints(0, 0, 1, 2, 0, 0, 0, 1), mode="reflect"),
    "Pow": one("Pow", X, scalar(2)),
    "RNN": one("RNN", STEPS, noise(1, 3, 4), noise(1, 3, 3), noise(1, 6), outputs=2,
               hidden_size=3, activations=["Relu"]),
    "RMSNormalization": one("RMSNormalization", X, noise(5), opset=23),
    "Range": chain(node("Shape", "x", "s"), node("Gather", "s one", "w"),
                   node("Range", "zero w one", "r"), node("Cast", "r", "f", to=1),
                   node("Reshape", "f six", "c"), node("Mul", "x c"),
                   zero=np.array(0), one=np.array(1), six=ints(6, 1, 1)),
    "ReduceMean all": one("ReduceMean", X[:, :1], keepdims=1),
    "ReduceMean input": one("ReduceMean", X, ints(-1), opset=18),
    "ReduceSum": one("ReduceSum", X, ints(1)),
    "Reshape": one("Reshape", X, ints(0, -1, 5)),
    "Reshape cut": one("Reshape", X, ints(-1, 2, 3, 20)),
    "Resize sizes": one("Resize", X, None, None, ints(2, 6, 7, 10), mode="linear", opset=13),
    "RotaryEmbedding": given("RotaryEmbedding", noise(2, 4, 5, 8), noise(9, 3),
                             noise(9, 3, seed=1), np.array([[0, 1, 2, 3, 8], [4, 4, 1, 0, 2]]),
                             rotary_embedding_dim=6),
    "RotaryEmbedding flat": given("RotaryEmbedding", noise(2, 5, 32), noise(2, 5, 4),
                                  noise(2, 5, 4, seed=1), num_heads=4, interleaved=1),
    "ScatterElements": chain(node("ScatterElements", "x i u", axis=1), x=FLAT,
                             i=np.array([[0, -1], [5, 2]]), u=noise(2, 2)),
    "ScatterND": chain(node("ScatterND", "x i u"), x=FLAT, i=np.array([[0, 1], [1, 5]]),
                       u=floats(7, 8)),
    "Slice": one("Slice", X, ints(1, -3), ints(4, 2**63 - 1), ints(1, 3), ints(2, 1)),
    "Slice backwards": one("Slice", X, ints(-1), ints(-(2**63)), ints(1), ints(-2)),
    "Slice back part": one("Slice", X, ints(4), ints(0), ints(1), ints(-1)),
    "Softmax old": one("Softmax", X, axis=1, opset=11),
    "SpaceToDepth": one("SpaceToDepth", noise(2, 3, 4, 6), blocksize=2),
    "Split": one("Split", X, ints(1, 3, 2), axis=1, outputs=3),
    "Split old": one("Split", X, axis=1, outputs=2, split=[4, 2], opset=11),
    "Split equal": one("Split", X, axis=3, num_outputs=2, outputs=2, opset=18),
    "Sqrt": one("Sqrt", ABOVE),
    "Squeeze": one("Squeeze", noise(2, 1, 3, 1), ints(1, -1)),
    "Squeeze old": one("Squeeze", noise(2, 1, 3, 1), axes=[1], opset=11),
    "Tile": one("Tile", X, ints(1, 2, 1, 3)),
    "TopK": one("TopK", FLAT, ints(3), axis=1, outputs=2),
    "Transpose perm": one("Transpose", X, perm=[0, 2, 3, 1]),
    "Trilu": one("Trilu", X, np.array(1), upper=0),
    "Trilu upper": one("Trilu", X),
    "Unsqueeze": one("Unsqueeze", X, ints(1, -1)),
    "Unsqueeze old": one("Unsqueeze", X, axes=[2], opset=12),
    "Clip of opset 10": one("Clip", X, min=-0.5, max=1.0, opset=10),
    "Clip of opset 7, one side": one("Clip", X, min=0.25, opset=7),
    "Pad of opset 7": one("Pad", X, pads=[0, 0, 1, 0, 0, 0, 0, 2], value=0.5, opset=7),
    "Resize of opset 10": one("Resize", X, floats(1, 1, 2, 1.5), opset=10),
    "Resize of opset 10, linear": one("Resize", X, floats(1, 1, 2, 2), opset=10, mode="linear"),
    "Slice of opset 7": one("Slice", X, starts=[1, -3], ends=[4, 2**31 - 1], axes=[1, 3], opset=7),
    "Swish": one("Swish", X, opset=24),
    "Swish wide": one("Swish", X, opset=24, alpha=1.5),
    "TopK of opset 7": one("TopK", FLAT, k=3, axis=1, outputs=2, opset=7),
    "Upsample of opset 7": one("Upsample", X, scales=[1.0, 1.0, 2.0, 3.0], opset=7),
    "Upsample": one("Upsample", X, floats(1, 1, 2, 2), opset=9, mode="linear"),
    "Where": chain(node("Greater", "x zero", "c"), node("Where", "c x b"),
                   zero=scalar(0), b=noise(6, 1, 1)),
    "Where scalar": chain(node("Greater", "x zero", "c"), node("Where", "c one x"),
                          zero=scalar(0), one=scalar(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator_computes_what_onnx_runtime_does(name: str) -> None:
    proto, inputs = CASES[name]
    assert_equal(by_torch(from_onnx(proto), inputs), by_runtime(proto, inputs))


def test_every_operator_of_the_tables_has_a_case() -> None:
    tested = {node.op_type for proto, _ in CASES.values() for node in proto.graph.node}
    assert OPS.keys() | LAYERS.keys() <= tested


RESIZES = [
    (mode, coordinates, nearest, scale)
    for mode, coordinates, nearest in (
        ("nearest", "asymmetric", "floor"),
        ("nearest", "asymmetric", "ceil"),
        ("nearest", "half_pixel", "round_prefer_floor"),
        ("nearest", "half_pixel", "round_prefer_ceil"),
        ("nearest", "align_corners", "floor"),
        ("linear", "half_pixel", "floor"),
        ("linear", "pytorch_half_pixel", "floor"),
        ("linear", "align_corners", "floor"),
        ("linear", "asymmetric", "floor"),
        ("cubic", "half_pixel", "floor"),
    )
    for scale in (2.0, 0.5, 1.5)
]


@pytest.mark.parametrize(("mode", "coordinates", "nearest", "scale"), RESIZES)
def test_resize_follows_its_modes(mode: str, coordinates: str, nearest: str, scale: float) -> None:
    proto, inputs = one(
        "Resize", noise(2, 3, 4, 6), None, floats(1, 1, scale, scale), opset=13, mode=mode,
        coordinate_transformation_mode=coordinates, nearest_mode=nearest,
    )  # fmt: skip
    assert_equal(by_torch(from_onnx(proto), inputs), by_runtime(proto, inputs))
