"""Reading ONNX without onnx: agrees with the library, and refuses what a device must not run."""

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from latency_probes import onnx_reader
from latency_probes.onnx_reader import OnnxFormatError
from tests.latency_probes_tests import onnx_models


def test_the_structure_agrees_with_the_onnx_library() -> None:
    data = onnx_models.convnet(24, batch=2)
    proto = onnx.load_from_string(data)
    found = onnx_reader.read(data)
    assert [(n.op, n.inputs, n.outputs) for n in found.nodes] == [
        (n.op_type, tuple(n.input), tuple(n.output)) for n in proto.graph.node
    ]
    assert {t.name: t.dims for t in found.initializers.values()} == {
        t.name: tuple(t.dims) for t in proto.graph.initializer
    }
    assert found.nodes[0].attributes == {"pads": (1, 1, 1, 1), "strides": (2, 2)}
    assert [(v.name, v.dims, v.data_type) for v in found.inputs] == [("x", (2, 3, 16, 16), 1)]


def test_only_marked_initializers_are_to_be_filled() -> None:
    assert all(t.filled for t in onnx_reader.read(onnx_models.convnet()).initializers.values())
    true = onnx_reader.read(onnx_models.convnet(filled=False))
    assert not any(t.filled for t in true.initializers.values())


def test_a_dim_that_is_not_fixed_reads_as_zero() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    found = onnx_reader.read(onnx_models.model([node], [], ["batch", 4], [1, 4]))
    assert found.inputs[0].dims == (0, 4)


def test_negative_attributes_are_read() -> None:
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=-1)
    found = onnx_reader.read(onnx_models.model([node], [], [1, 4], [1, 8]))
    assert found.nodes[0].attributes == {"axis": (-1,)}


def _pointing_to(location: str) -> TensorProto:
    tensor = onnx_models.to_fill("w", [4, 4])
    tensor.external_data[0].value = location
    return tensor


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights", "secateur:fill/../x", ""])
def test_weights_in_another_file_are_refused(location: str) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    data = onnx_models.model([node], [_pointing_to(location)], [1, 4], [1, 4])
    with pytest.raises(OnnxFormatError, match="must be inline or have the location"):
        onnx_reader.read(data)


def test_an_offset_beside_the_mark_is_refused() -> None:
    tensor = onnx_models.to_fill("w", [4, 4])
    tensor.external_data.add(key="offset", value="4096")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(OnnxFormatError, match="must be inline"):
        onnx_reader.read(onnx_models.model([node], [tensor], [1, 4], [1, 4]))


def test_external_weights_hidden_in_a_constant_are_refused() -> None:
    node = helper.make_node("Constant", [], ["y"], value=_pointing_to("/etc/passwd"))
    with pytest.raises(OnnxFormatError, match="must be inline"):
        onnx_reader.read(onnx_models.model([node], [], [1, 4], [1, 4]))


def test_external_weights_hidden_in_a_subgraph_are_refused() -> None:
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 4])
    branch = helper.make_graph([], "branch", [], [out], [onnx_models.to_fill("z", [4, 4])])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(OnnxFormatError, match="only a main graph's initializers"):
        onnx_reader.read(onnx_models.model([node], [], [1], [4, 4]))


def test_external_weights_hidden_in_a_function_are_refused() -> None:
    proto = onnx.load_from_string(onnx_models.convnet())
    node = helper.make_node("Constant", [], ["o"], value=_pointing_to("/etc/passwd"))
    function = helper.make_function("local", "f", [], ["o"], [node], proto.opset_import)
    proto.functions.append(function)
    with pytest.raises(OnnxFormatError, match="must be inline"):
        onnx_reader.read(proto.SerializeToString())


def test_graphs_nested_too_deeply_are_refused() -> None:
    graph = helper.make_graph([], "innermost", [], [])
    for depth in range(10):
        node = helper.make_node("If", ["x"], [f"y{depth}"], then_branch=graph)
        graph = helper.make_graph([node], "g", [], [])
    with pytest.raises(OnnxFormatError, match="nested at most 8 deep"):
        onnx_reader.read(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a model", b"\xff" * 30, b"\x3a\x05\x01"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(OnnxFormatError):
        onnx_reader.read(data)


@given(st.data())
def test_a_damaged_model_is_read_or_refused_but_never_crashes(data: st.DataObject) -> None:
    model = bytearray(onnx_models.convnet())
    for place in data.draw(st.lists(st.integers(0, len(model) - 1), max_size=4)):
        model[place] = data.draw(st.integers(0, 255))
    damaged = bytes(model[: data.draw(st.integers(0, len(model)))])
    try:
        onnx_reader.read(damaged)
    except OnnxFormatError:
        return


def test_attributes_packed_by_another_writer_are_read() -> None:
    node = helper.make_node("Relu", ["x"], ["y"]).SerializeToString()
    packed = b"\x0a\x04pads\x42\x03\x01\xac\x02"  # name "pads", packed integers 1 and 300
    node += b"\x2a" + bytes([len(packed)]) + packed
    graph = b"\x0a" + bytes([len(node)]) + node
    found = onnx_reader.read(b"\x3a" + bytes([len(graph)]) + graph)
    assert found.nodes[0].attributes == {"pads": (1, 300)}


def test_sparse_weights_are_refused() -> None:
    graph = b"\x7a\x00"
    with pytest.raises(OnnxFormatError, match="sparse"):
        onnx_reader.read(b"\x3a" + bytes([len(graph)]) + graph)
