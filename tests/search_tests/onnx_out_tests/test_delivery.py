"""A pruned file drops in where the old one stood: interface, layout, opset and texts are its."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from search.graph import PruningGraph, trace
from search.onnx_in import OnnxModule, from_onnx
from search.onnx_out import Delivered, deliver
from search.plan import Plan
from search.surgery import prune
from tests.search_tests.onnx_in_tests.graphs import by_runtime, model, noise

node = helper.make_node


def half(graph: PruningGraph) -> Plan:
    """Every second unit of each prunable group."""
    names = {group.name for group in graph.prunable if group.kind != "block"}
    return Plan(
        {
            group.name: tuple(range(0, group.width, 2 if group.name in names else 1))
            for group in graph.groups
        }
    )


def described(proto: ModelProto) -> ModelProto:
    """With all the texts that a file may have."""
    proto.producer_name, proto.producer_version, proto.doc_string = "exporter", "1.2", "a model"
    proto.graph.doc_string, proto.graph.input[0].doc_string = "a graph", "RGB"
    helper.set_model_props(proto, {"classes": "cat,dog", "stride": "32"})
    onnx.checker.check_model(proto)
    return proto


def result(proto: ModelProto, kind: int = TensorProto.FLOAT, *sizes: int | str) -> None:
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, sizes or ["N", 4]))


def plain(opset: int = 13, batch: int | str = "N") -> ModelProto:
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2", "b2"], ["c2"], name="second"),
        node("Relu", ["c2"], ["r2"]),
        node("GlobalAveragePool", ["r2"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["y"], alpha=2.0, beta=0.5),
    ]
    weights = {
        "w1": noise(8, 3, 3, 3), "w2": noise(6, 8, 3, 3), "b2": noise(6), "w3": noise(6, 4),
        "b3": noise(1, 4),
    }  # fmt: skip
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, weights, opset=opset, batch=batch)
    result(proto, TensorProto.FLOAT, batch, 4)
    return described(proto)


def keras_like() -> ModelProto:
    """Channels last, bytes, a norm, a flattened map and a bias that is added."""
    nodes = [
        node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        node("Div", ["f", "scale"], ["scaled"]),
        node("Transpose", ["scaled"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w1"], ["c1"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Reshape", ["r1", "flat"], ["flattened"]),
        node("MatMul", ["flattened", "w2"], ["p"]),
        node("Add", ["p", "b2"], ["h"]),
        node("Relu", ["h"], ["rh"]),
        node("MatMul", ["rh", "w3"], ["y"]),
    ]
    weights = {
        "scale": np.array([255], np.float32),
        "w1": noise(8, 3, 3, 3), "g": noise(8) + 2, "b": noise(8),
        "m": noise(8), "v": np.abs(noise(8)) + 1, "flat": np.array([-1, 8 * 16]),
        "w2": noise(128, 10), "b2": noise(1, 10), "w3": noise(10, 4),
    }  # fmt: skip
    proto = model(nodes, {"x": noise(2, 8, 8, 3)}, weights)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    result(proto)
    return described(proto)


def half_precision() -> ModelProto:
    proto = plain()
    for tensor in proto.graph.initializer:
        value = (numpy_helper.to_array(tensor) / 4).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    result(proto, TensorProto.FLOAT16)
    return proto


def computed_shape() -> ModelProto:
    """A shape that is joined from the batch and a constant, in Constant nodes; weights too."""
    weights = {"w1": noise(8, 3, 3, 3), "w2": noise(8 * 36, 4), "zero": np.array(0), "one":
               np.array([8 * 36])}  # fmt: skip
    nodes = [
        *(node("Constant", [], [k], value=numpy_helper.from_array(v)) for k, v in weights.items()),
        node("Conv", ["x", "w1"], ["c1"]),
        node("Relu", ["c1"], ["r1"]),
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["batch"]),
        node("Unsqueeze", ["batch"], ["first"], axes=[0]),
        node("Concat", ["first", "one"], ["shape"], axis=0),
        node("Reshape", ["r1", "shape"], ["f"]),
        node("MatMul", ["f", "w2"], ["y"]),
    ]
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, opset=11)
    result(proto)
    return described(proto)


def shared() -> ModelProto:
    """One weight in two layers, by an Identity, and one slope that two activations read."""
    nodes = [
        node("Identity", ["w"], ["again"]),
        node("Conv", ["x", "stem"], ["c0"]),
        node("PRelu", ["c0", "slope"], ["r0"]),
        node("Conv", ["r0", "w"], ["c1"], pads=[1, 1, 1, 1]),
        node("PRelu", ["c1", "slope"], ["r1"]),
        node("Conv", ["r1", "again"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r0"], ["sum"]),
        node("ReduceMean", ["sum"], ["m"], axes=[2, 3], keepdims=0),
        node("MatMul", ["m", "head"], ["y"]),
    ]
    weights = {
        "stem": noise(8, 3, 3, 3), "w": noise(8, 8, 3, 3), "slope": noise(8, 1, 1),
        "head": noise(8, 4),
    }  # fmt: skip
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, weights)
    result(proto)
    return described(proto)


def recurrent() -> ModelProto:
    """Both directions of an LSTM, then a GRU; the steps come first."""
    nodes = [
        node("MatMul", ["x", "pw"], ["p"]),
        node("Relu", ["p"], ["pr"]),
        node("Transpose", ["pr"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "lw", "lr", "lb"], ["l"], hidden_size=6, direction="bidirectional"),
        node("Transpose", ["l"], ["lt"], perm=[0, 2, 1, 3]),
        node("Reshape", ["lt", "joined"], ["j"]),
        node("GRU", ["j", "gw", "gr", "gb"], ["", "last"], hidden_size=5, linear_before_reset=1),
        node("Squeeze", ["last"], ["s"], axes=[0]),
        node("MatMul", ["s", "head"], ["y"]),
    ]
    weights = {
        "pw": noise(3, 8), "lw": noise(2, 24, 8), "lr": noise(2, 24, 6), "lb": noise(2, 48),
        "gw": noise(1, 15, 12),
        "gr": noise(1, 15, 5), "gb": noise(1, 30), "joined": np.array([0, 0, 12]),
        "head": noise(5, 4),
    }  # fmt: skip
    proto = model(nodes, {"x": noise(2, 7, 3)}, weights, opset=11)
    result(proto)
    return described(proto)


FILES: dict[str, Callable[[], ModelProto]] = {
    "computed shape": computed_shape,
    "fixed batch": lambda: plain(batch=3),
    "half precision": half_precision,
    "keras": keras_like,
    "opset 7": lambda: plain(opset=7),
    "plain": plain,
    "recurrent": recurrent,
    "shared": shared,
}


def delivered(proto: ModelProto) -> tuple[OnnxModule, nn.Module, Delivered]:
    """A network from a file, half of it, and the file of that half."""
    dense = from_onnx(proto)
    graph = trace(dense, dense.example_inputs(2))
    assert graph.prunable
    pruned = prune(dense, graph, half(graph)).eval()
    with torch.no_grad():  # as if trained further: new biases are in the file as well
        for name, value in pruned.named_parameters():
            if name.endswith("bias"):
                value.add_(0.1)
    made = deliver(pruned, dense, graph.example_inputs, samples(dense), source=proto,
                   analysis=graph, plan=half(graph))  # fmt: skip
    return dense, pruned, made


def samples(dense: OnnxModule) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda count: dense.example_inputs(count, seed=count)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_edited_where_it_stands(name: str) -> None:
    source = FILES[name]()
    _, _, made = delivered(source)
    found = onnx.load_from_string(made.onnx_bytes)
    onnx.checker.check_model(found, full_check=True)
    assert (made.way, made.reason, made.notes) == ("edited", "", ())
    assert made.batches == ((3,) if name == "fixed batch" else (1, 2, 7))
    for own in ("opset_import", "metadata_props", "producer_name", "producer_version",
                "doc_string", "ir_version"):  # fmt: skip
        assert getattr(found, own) == getattr(source, own)
    assert found.graph.doc_string == "a graph"
    assert list(found.graph.input) == list(source.graph.input)
    assert list(found.graph.output) == list(source.graph.output)
    assert [each.op_type for each in found.graph.node] == [
        each.op_type for each in source.graph.node
    ]
    assert len(made.onnx_bytes) < len(source.SerializeToString())


def test_the_dense_model_s_file_is_the_one_that_came_in() -> None:
    source = plain()
    dense = from_onnx(source)
    data = source.SerializeToString()
    made = deliver(dense, dense, dense.example_inputs(2), samples(dense), source=data)
    assert (made.way, made.onnx_bytes, made.opset) == ("kept", data, 13)


def split_channels() -> ModelProto:
    """A split into sizes that the file holds as numbers, which no weight tells."""
    nodes = [
        node("Conv", ["x", "w1"], ["c1"]),
        node("Split", ["c1"], ["a", "b"], axis=1, split=[4, 4]),
        node("Sigmoid", ["b"], ["gate"]),
        node("Mul", ["a", "gate"], ["m"]),
        node("GlobalAveragePool", ["m"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w3"], ["y"]),
    ]
    weights = {"w1": noise(8, 3, 3, 3), "w3": noise(4, 4)}
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, weights, opset=12, batch="examples")
    result(proto, TensorProto.FLOAT, "examples", 4)
    return described(proto)


def counted() -> ModelProto:
    """A mean over channels, which counts those that are gone as zeros: the node cannot say it."""
    nodes = [
        node("Conv", ["x", "w1"], ["c1"]),
        node("ReduceMean", ["c1"], ["m"], axes=[1], keepdims=1),
        node("Sub", ["c1", "m"], ["d"]),
        node("Conv", ["d", "w2"], ["c2"]),
        node("GlobalAveragePool", ["c2"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w3"], ["y"]),
    ]
    weights = {"w1": noise(8, 3, 3, 3), "w2": noise(6, 8, 1, 1), "w3": noise(6, 4)}
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, weights, opset=12, batch="examples")
    result(proto, TensorProto.FLOAT, "examples", 4)
    return described(proto)


def test_what_cannot_be_edited_is_exported_with_its_interface_put_back() -> None:
    source = counted()
    _, _, made = delivered(source)
    found = onnx.load_from_string(made.onnx_bytes)
    onnx.checker.check_model(found, full_check=True)
    assert made.way == "exported"
    assert "cannot be edited" in made.reason
    assert made.batches == (1, 2, 7)
    assert list(found.graph.input) == list(source.graph.input)
    assert list(found.graph.output) == list(source.graph.output)
    assert found.metadata_props == source.metadata_props
    assert (found.producer_name, found.doc_string) == ("exporter", "a model")
    assert made.opset == 12 or "the opset is" in made.notes[0]


def freed(proto: ModelProto) -> ModelProto:
    """The file with free sizes of images, one of them without a name."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param = "height"
    dims[3].Clear()
    return proto


def grouped() -> ModelProto:
    """A norm that holds one value per group before opset 21."""
    nodes = [
        node("Conv", ["x", "w1"], ["c1"]),
        node("GroupNormalization", ["c1", "g", "b0"], ["n"], num_groups=4),
        node("Relu", ["n"], ["s"]),
        node("GlobalAveragePool", ["s"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "w3"], ["y"]),
    ]
    weights = {"w1": noise(16, 3, 3, 3), "g": noise(4) + 2, "b0": noise(4), "w3": noise(16, 4)}
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, weights, opset=18, batch="examples")
    result(proto, TensorProto.FLOAT, "examples", 4)
    return proto


def summed() -> ModelProto:
    """A block that ends inside a node, which sums three values."""
    nodes = [
        node("Conv", ["x", "w0"], ["s"]),
        node("Conv", ["s", "w1"], ["a1"], pads=[1, 1, 1, 1]),
        node("Relu", ["a1"], ["a2"]),
        node("Conv", ["a2", "w2"], ["a3"], pads=[1, 1, 1, 1]),
        node("Sigmoid", ["s"], ["t"]),
        node("Sum", ["a3", "s", "t"], ["a"]),
        node("GlobalAveragePool", ["a"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "w3"], ["y"]),
    ]
    weights = {"w0": noise(8, 3, 3, 3), "w3": noise(8, 4)}
    weights |= {f"w{n}": noise(8, 8, 3, 3, seed=n) / 8 for n in (1, 2)}
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, weights, opset=18, batch="examples")
    result(proto, TensorProto.FLOAT, "examples", 4)
    return proto


@pytest.mark.parametrize(
    ("made_by", "form", "reason"),
    [(grouped, "module", "one value per group"), (summed, "graph", "must end with a node")],
)
def test_an_export_keeps_the_free_sizes_where_the_network_has_them(
    made_by: Callable[[], ModelProto], form: str, reason: str
) -> None:
    source = freed(made_by())
    dense = from_onnx(source, input_shapes=[(3, 8, 8)])
    graph = trace(dense, dense.example_inputs(2))
    gone = dict.fromkeys((group.name for group in graph.removable), ())
    plan = Plan({**half(graph).kept, **gone})
    assert graph.form(plan) == form
    pruned = prune(dense, graph, plan, free_sizes=False).eval()
    with torch.no_grad():  # as if trained further: channels of one group differ
        for value in pruned.parameters():
            if value.ndim == 1:
                value.add_(torch.rand(value.shape, generator=torch.Generator().manual_seed(0)))
    made = deliver(pruned, dense, graph.example_inputs, samples(dense), source=source,
                   analysis=graph, plan=plan)  # fmt: skip
    found = onnx.load_from_string(made.onnx_bytes)
    assert (made.way, made.sizes) == ("exported", {"x": (3, 8, 8)})
    assert reason in made.reason
    assert list(found.graph.input) == list(source.graph.input)
    assert not any("fixed" in note for note in made.notes)
    (scores,) = by_runtime(made.onnx_bytes, [noise(3, 3, 12, 20)])
    assert scores.shape == (3, 4)


def test_free_sizes_that_an_export_fixes_are_told() -> None:
    """A flattened map: its head holds for one size alone."""
    nodes = [
        node("Conv", ["x", "w1"], ["c1"]),
        node("ReduceMean", ["c1"], ["m"], axes=[1], keepdims=1),
        node("Sub", ["c1", "m"], ["d"]),
        node("Flatten", ["d"], ["f"]),
        node("MatMul", ["f", "w3"], ["y"]),
    ]
    proto = model(nodes, {"x": noise(2, 3, 8, 8)}, {"w1": noise(8, 3, 3, 3), "w3": noise(288, 4)})
    result(proto)
    source = freed(described(proto))
    dense = from_onnx(source, input_shapes=[(3, 8, 8)])
    graph = trace(dense, dense.example_inputs(2))
    pruned = prune(dense, graph, half(graph), free_sizes=False).eval()
    made = deliver(pruned, dense, graph.example_inputs, samples(dense), source=source,
                   analysis=graph, plan=half(graph))  # fmt: skip
    assert (made.way, made.batches) == ("exported", (1, 2, 7))
    assert "sizes that were free are fixed: x[2], x[3]" in made.notes


class Nested(nn.Module):
    """Outputs in a dictionary, and a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor, weight: Tensor) -> dict[str, Any]:
        features = torch.relu(self.conv(images)).mean((2, 3)) * weight
        return {"scores": self.head(features), "features": (features.sum(1), features.amax(1))}


def test_a_torch_model_s_file_has_the_names_of_its_forward_and_a_free_batch() -> None:
    dense = Nested().eval()
    inputs = (torch.rand(2, 3, 8, 8), torch.rand(2, 1))
    graph = trace(dense, inputs)
    pruned = prune(dense, graph, half(graph)).eval()
    made = deliver(
        pruned, dense, inputs, lambda count: (torch.rand(count, 3, 8, 8), torch.rand(count, 1))
    )
    found = onnx.load_from_string(made.onnx_bytes)
    onnx.checker.check_model(found, full_check=True)
    assert [value.name for value in found.graph.input] == ["images", "weight"]
    assert [value.name for value in found.graph.output] == ["scores", "features.0", "features.1"]
    sizes = found.graph.input[0].type.tensor_type.shape.dim
    assert (sizes[0].dim_param, sizes[1].dim_value) == ("batch", 3)
    assert (made.way, made.batches) == ("exported", (1, 2, 7))


def test_a_batch_that_cannot_be_free_is_fixed_and_that_is_said() -> None:
    class OneByOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = [torch.relu(self.first(x[place])) for place in range(x.shape[0])]
            return torch.as_tensor(self.head(torch.stack(rows)))

    dense = OneByOne().eval()
    inputs = (torch.rand(2, 6),)
    made = deliver(dense, dense, inputs, lambda count: (torch.rand(count, 6),), batch_size=2)
    assert made.batches == (2,)
    assert "the batch is fixed at 2" in made.notes[0]
