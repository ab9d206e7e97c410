"""Files whose own steps do not run with what is left are edited too, by the labels of their
exported graph: splits, slices, indices, heads of attention, and blocks that are gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from search.graph import trace
from search.onnx_in import from_onnx
from search.onnx_out import Delivered, deliver
from search.plan import Plan
from search.surgery import prune
from tests.search_tests.onnx_in_tests.graphs import model, noise
from tests.search_tests.onnx_out_tests.test_delivery import (
    delivered,
    described,
    half,
    node,
    result,
    samples,
    split_channels,
)


def parts(opset: int, *, equal: bool) -> ModelProto:
    """A split whose parts the file numbers, or leaves to be equal."""
    sizes = np.array([8, 4])
    nodes = [
        node("Conv", ["x", "w1"], ["c1"]),
        node("Relu", ["c1"], ["r1"]),
        node("Split", ["r1"] if equal else ["r1", "sizes"], ["a", "b"], axis=1),
        node("Conv", ["a", "w2"], ["c2"]),
        node("Conv", ["b", "w3"], ["c3"]),
        node("Add", ["c2", "c3"], ["s"]),
        node("GlobalAveragePool", ["s"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w4"], ["y"]),
    ]  # fmt: skip
    if equal:
        nodes[2].attribute.append(helper.make_attribute("num_outputs", 2))
    first = 6 if equal else 8
    weights = {"w1": noise(12, 3, 3, 3), "w2": noise(6, first, 1, 1), "w4": noise(6, 4),
               "w3": noise(6, 12 - first, 1, 1)}  # fmt: skip
    weights |= {} if equal else {"sizes": sizes}
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, weights, opset=opset)
    result(proto)
    return described(proto)


def slices(opset: int) -> ModelProto:
    """Two overlapping parts of the channels, one up to an open end."""
    ends: dict[str, Any] = {"s0": np.array([0]), "e0": np.array([6]), "s1": np.array([-6]),
                            "e1": np.array([2**31 - 1]), "axis": np.array([1])}  # fmt: skip
    if opset < 10:
        cuts = [
            node("Slice", ["c1"], ["a"], starts=[0], ends=[6], axes=[1]),
            node("Slice", ["c1"], ["b"], starts=[-6], ends=[2**31 - 1], axes=[1]),
        ]
    else:
        cuts = [
            node("Slice", ["c1", "s0", "e0", "axis"], ["a"]),
            node("Slice", ["c1", "s1", "e1", "axis"], ["b"]),
        ]
    nodes = [
        node("Conv", ["x", "w1"], ["c1"]),
        *cuts,
        node("Conv", ["a", "w2"], ["c2"]),
        node("Conv", ["b", "w3"], ["c3"]),
        node("Mul", ["c2", "c3"], ["s"]),
        node("GlobalAveragePool", ["s"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w4"], ["y"]),
    ]
    weights = {"w1": noise(10, 3, 3, 3), "w2": noise(6, 6, 1, 1), "w3": noise(6, 6, 1, 1),
               "w4": noise(6, 4)}  # fmt: skip
    proto = model(
        nodes, {"x": noise(2, 3, 8, 8)}, weights if opset < 10 else weights | ends, opset=opset
    )
    result(proto)
    return described(proto)


def shuffled(width: int = 16) -> ModelProto:
    """Channels that an index of constants moves."""
    index = np.random.default_rng(0).permutation(width)
    nodes = [
        node("Conv", ["x", "w1"], ["c1"]),
        node("Gather", ["c1", "index"], ["m"], axis=1),
        node("Relu", ["m"], ["r"]),
        node("Conv", ["r", "w2"], ["c2"]),
        node("GlobalAveragePool", ["c2"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w3"], ["y"]),
    ]
    weights = {"w1": noise(width, 3, 3, 3), "w2": noise(6, width, 1, 1), "w3": noise(6, 4),
               "index": index}  # fmt: skip
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, weights)
    result(proto)
    return described(proto)


HEADS, WIDTH, MODEL = 4, 6, 12


def attention(opset: int = 13, *, computed: bool) -> ModelProto:
    """Heads whose number the file holds, and whose width it holds or computes; the scale is the
    root of a size, as exporters write scaled products."""
    width = HEADS * WIDTH
    sizes: dict[str, Any] = {
        "zero": np.array([0]), "one": np.array([1]), "last": np.array([-1]),
        "far": np.array([2**31 - 1]), "heads": np.array([HEADS]),
        "joined": np.array([0, -1, width]),
        "apart": np.array([0, -1, 3, HEADS, WIDTH]), "three": np.array([3]),
        "p0": np.array(0), "p1": np.array(1), "p2": np.array(2), "times": np.array([3 * HEADS]),
    }  # fmt: skip
    shape = [
        node("Shape", ["h"], ["hs"]),
        node("Slice", ["hs", "zero", "one"], ["batch"]),
        node("Shape", ["qkv"], ["qs"]),
        node("Slice", ["qs", "last", "far"], ["all"]),
        node("Div", ["all", "times"], ["each"]),
        node("Concat", ["batch", "last", "three", "heads", "each"], ["target"], axis=0),
    ]
    nodes = [
        node("MatMul", ["x", "wp"], ["h"]),
        node("MatMul", ["h", "wqkv"], ["qkv"]),
        *(shape if computed else []),
        node("Reshape", ["qkv", "target" if computed else "apart"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
        *(node("Gather", ["t", f"p{n}"], [name], axis=0) for n, name in enumerate("qkv")),
        node("Shape", ["q"], ["ss"]),
        node("Slice", ["ss", "last", "far"], ["sd"]),
        node("Cast", ["sd"], ["sf"], to=1),
        node("Sqrt", ["sf"], ["root"]),
        node("Div", ["q", "root"], ["qd"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["qd", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["o"]),
        node("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
        node("Reshape", ["ot", "joined"], ["j"]),
        node("MatMul", ["j", "wo"], ["w"]),
        node("ReduceMean", ["w"], ["m"], axes=[1], keepdims=0),
        node("MatMul", ["m", "head"], ["y"]),
    ]
    weights = {"wp": noise(5, MODEL), "wqkv": noise(MODEL, 3 * width), "wo": noise(width, 8),
               "head": noise(8, 4)}  # fmt: skip
    read = {name for each in nodes for name in each.input}
    held = {name: value for name, value in (weights | sizes).items() if name in read}
    proto = model(nodes, {"x": noise(2, 7, 5)}, held, opset=opset)
    result(proto)
    return described(proto)


FILES: dict[str, Callable[[], ModelProto]] = {
    "a split by an attribute": split_channels,
    "a split into equal parts": lambda: parts(18, equal=True),
    "a split into numbered parts": lambda: parts(13, equal=False),
    "heads": lambda: attention(computed=False),
    "heads of a computed size": lambda: attention(computed=True),
    "indices": shuffled,
    "slices": lambda: slices(13),
    "slices by attributes": lambda: slices(9),
}


def assert_edited(source: ModelProto, made: Delivered) -> ModelProto:
    assert (made.way, made.reason, made.notes) == ("edited", "", ())
    assert made.batches == (1, 2, 7)
    found = onnx.load_from_string(made.onnx_bytes)
    onnx.checker.check_model(found, full_check=True)
    for own in ("opset_import", "metadata_props", "producer_name", "doc_string", "ir_version"):
        assert getattr(found, own) == getattr(source, own)
    assert list(found.graph.input) == list(source.graph.input)
    assert list(found.graph.output) == list(source.graph.output)
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_graph_form_is_edited(name: str) -> None:
    source = FILES[name]()
    _, _, made = delivered(source)
    found = assert_edited(source, made)
    assert len(made.onnx_bytes) < len(source.SerializeToString())
    order = iter([each.output[0] for each in source.graph.node])
    assert all(each.output[0] in order for each in found.graph.node)  # what is left is in order


@pytest.mark.parametrize("computed", [False, True])
def test_heads_leave_as_a_plan_says(computed: bool) -> None:
    """One head of four: the widths of the others stay."""
    source = attention(computed=computed)
    dense = from_onnx(source)
    graph = trace(dense, dense.example_inputs(2))
    (heads,) = [group for group in graph.prunable if group.kind == "heads"]
    plan = Plan({**graph.dense_plan().kept, heads.name: tuple(range(1, heads.width))})
    pruned = prune(dense, graph, plan).eval()
    made = deliver(pruned, dense, graph.example_inputs, samples(dense), source=source,
                   analysis=graph, plan=plan)  # fmt: skip
    found = assert_edited(source, made)
    (weight,) = [each for each in found.graph.initializer if each.name == "wqkv"]
    assert numpy_helper.to_array(weight).shape[1] < 3 * HEADS * WIDTH


def residual() -> ModelProto:
    """Two blocks, the first of which begins and ends at the same value; a constant is shared."""
    nodes = [
        node("Conv", ["x", "stem"], ["s"]),
        node("Conv", ["s", "w1"], ["a1"], pads=[1, 1, 1, 1]),
        node("Relu", ["a1"], ["a2"]),
        node("Conv", ["a2", "w2"], ["a3"], pads=[1, 1, 1, 1]),
        node("Add", ["a3", "s"], ["a"]),
        node("Conv", ["a", "w3"], ["b1"], pads=[1, 1, 1, 1]),
        node("Relu", ["b1"], ["b2"]),
        node("Conv", ["b2", "w4"], ["b3"], pads=[1, 1, 1, 1]),
        node("Add", ["a", "b3"], ["b"]),
        node("GlobalAveragePool", ["b"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "head"], ["y"]),
    ]
    weights = {"stem": noise(8, 3, 3, 3), "head": noise(8, 4)}
    weights |= {f"w{n}": noise(8, 8, 3, 3, seed=n) / 8 for n in (1, 2, 3, 4)}
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, weights)
    result(proto)
    return described(proto)


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1)])
def test_a_block_that_is_gone_leaves_its_shortcut(gone: tuple[int, ...]) -> None:
    source = residual()
    dense = from_onnx(source)
    graph = trace(dense, dense.example_inputs(2))
    assert len(graph.removable) == 2
    names = [graph.removable[place].name for place in gone]
    plan = Plan({**half(graph).kept, **dict.fromkeys(names, ())})
    pruned = prune(dense, graph, plan).eval()
    made = deliver(pruned, dense, graph.example_inputs, samples(dense), source=source,
                   analysis=graph, plan=plan)  # fmt: skip
    found = assert_edited(source, made)
    kinds = [each.op_type for each in found.graph.node]
    assert kinds.count("Conv") == 5 - 2 * len(gone)
    assert kinds.count("Identity") <= len(gone)
