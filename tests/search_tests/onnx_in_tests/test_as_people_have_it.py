"""Files as exporters and scripts write them: external data, free sizes, half precision."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from search.errors import OnnxError
from search.onnx_in import from_onnx
from search.onnx_in.conversion import PROBES
from tests.search_tests.onnx_in_tests.graphs import (
    assert_equal,
    by_runtime,
    by_torch,
    model,
    noise,
)

X = noise(2, 3, 8, 8)


def classifier(**settings: Any) -> ModelProto:
    """Two convolutions and a linear layer."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="first"),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second"),
        helper.make_node("GlobalAveragePool", ["c2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], transB=1),
    ]
    weights = {"w1": noise(8, 3, 3, 3), "w2": noise(8, 8, 3, 3), "w3": noise(4, 8)}
    return model(nodes, {"x": X}, weights, **settings)


def saved(folder: Path, **settings: Any) -> Path:
    """The classifier with its weights in a file beside it."""
    path = folder / "m.onnx"
    onnx.save_model(
        classifier(), path, save_as_external_data=True, location="m.onnx.data", size_threshold=0,
        **settings,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("together", [True, False])
def test_external_data_is_read_from_beside_the_file(tmp_path: Path, together: bool) -> None:
    path = saved(tmp_path, all_tensors_to_one_file=together)
    assert len(list(tmp_path.iterdir())) == (2 if together else 4)
    for given in (path, str(path)):
        assert_equal(by_torch(from_onnx(given), [X]), by_runtime(classifier(), [X]))


def test_what_torch_exports_by_default_is_read(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 4)).eval()
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():  # the exporter warns of its own deprecations
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.from_numpy(X),), path, verbose=False)
    assert (tmp_path / "m.onnx.data").exists()
    with torch.no_grad():
        wanted = [net(torch.from_numpy(X)).numpy()]
    assert_equal(by_torch(from_onnx(path), [X]), wanted)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("location", "/etc/passwd", "must lie in the folder of the ONNX file"),
        ("location", "../m.onnx.data", "must lie in the folder of the ONNX file"),
        ("location", "link", "must lie in the folder of the ONNX file"),
        ("location", "", "must lie in the folder of the ONNX file"),
        ("location", "missing", "must be readable in the folder of the ONNX file"),
        ("location", "pipe", "must lie in a regular file"),
        ("location", "folder", "folder"),
        ("length", "99999999", "must lie within 'm.onnx.data'"),
        ("offset", "-5", "must lie within 'm.onnx.data'"),
        ("offset", "five", "must be numbers"),
    ],
)
def test_external_data_elsewhere_is_refused(
    tmp_path: Path, key: str, value: str, reason: str
) -> None:
    path = saved(tmp_path)
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    proto = onnx.load(path, load_external_data=False)
    entries = proto.graph.initializer[0].external_data
    (entry,) = [each for each in entries if each.key == key] or [entries.add(key=key)]
    entry.value = value
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(OnnxError, match=reason):
        from_onnx(path)


def test_bytes_alone_with_external_data_say_what_to_give(tmp_path: Path) -> None:
    data = saved(tmp_path).read_bytes()
    with pytest.raises(OnnxError, match="give the path of the ONNX file"):
        from_onnx(data)


@pytest.mark.parametrize("size", [-1, 0, "batch", "?"])
def test_a_free_size_may_be_written_as_minus_one_as_zero_or_by_a_name(size: int | str) -> None:
    proto = classifier(batch=size)
    assert from_onnx(proto).inputs[0].shape == (None, 3, 8, 8)
    assert_equal(by_torch(from_onnx(proto), [X]), by_runtime(classifier(), [X]))


def test_other_free_sizes_are_given() -> None:
    proto = classifier(batch=-1)
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = -1
    with pytest.raises(OnnxError, match="give input_shape"):
        from_onnx(proto)
    module = from_onnx(proto, input_shapes=[(3, 8, 8)])
    assert_equal(by_torch(module, [X]), by_runtime(classifier(), [X]))


def test_half_precision_is_computed_in_float32_and_that_is_said() -> None:
    proto = classifier()
    for tensor in proto.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    kind = proto.graph.input[0].type.tensor_type
    kind.elem_type = TensorProto.FLOAT16
    module = from_onnx(proto)
    assert module.inputs[0].dtype == torch.float32
    assert module.inputs[0].stored == "float16"
    assert "4 inputs and constants are float16" in module.notes[0]
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    (found,), (wanted,) = by_torch(module, [X]), by_runtime(proto, [X.astype(np.float16)])
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())


def test_bytes_in_channels_last_order_are_taken() -> None:
    proto = classifier()
    proto.graph.node[0].input[0] = "turned"
    proto.graph.node.insert(
        0, helper.make_node("Transpose", ["cast"], ["turned"], perm=[0, 3, 1, 2])
    )
    proto.graph.node.insert(0, helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT))
    kind = proto.graph.input[0].type.tensor_type
    kind.elem_type = TensorProto.UINT8
    for dim, size in zip(kind.shape.dim[1:], (8, 8, 3), strict=True):
        dim.dim_value = size
    module = from_onnx(proto)
    (images,) = module.example_inputs(5)
    assert images.dtype == torch.uint8
    assert images.shape == (5, 8, 8, 3)
    assert images.max() > 200
    assert_equal(by_torch(module, [images.numpy()]), by_runtime(proto, [images.numpy()]))


def test_functions_are_put_in_place_of_their_calls() -> None:
    proto = classifier(opset=18)
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    imports = [helper.make_opsetid("", 18)]
    proto.functions.append(helper.make_function("own", "turn", ["a"], ["c"], body, imports))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[1].CopyFrom(helper.make_node("turn", ["c1"], ["r1"], domain="own"))
    assert_equal(by_torch(from_onnx(proto), [X]), by_runtime(proto, [X]))


def test_functions_that_grow_beyond_measure_are_refused() -> None:
    proto = classifier(opset=18)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    for level in range(20):
        inner = {"op_type": f"f{level - 1}", "domain": "own"} if level else {"op_type": "Neg"}
        nodes = [helper.make_node(inputs=[a], outputs=[b], **inner) for a, b in ("xy", "yz", "zu")]
        proto.functions.append(
            helper.make_function("own", f"f{level}", ["x"], ["u"], nodes, imports)
        )
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[1].CopyFrom(helper.make_node("f19", ["c1"], ["r1"], domain="own"))
    with pytest.raises(OnnxError, match="nodes must be ≤ 50000, but with its functions"):
        from_onnx(proto)


def test_weights_may_be_shared_and_may_be_constant_nodes() -> None:
    proto = classifier()
    proto.graph.node[0].input[0] = "c0"
    proto.graph.node.insert(0, helper.make_node("Conv", ["x", "w0"], ["c0"]))
    proto.graph.initializer.append(numpy_helper.from_array(noise(3, 3, 1, 1), "w0"))
    proto.graph.node.insert(3, helper.make_node("Conv", ["r1", "w2"], ["shared"]))
    proto.graph.node[4].input[0] = "shared"
    for tensor in list(proto.graph.initializer):
        if tensor.name != "w2":
            proto.graph.initializer.remove(tensor)
            made = helper.make_node("Constant", [], [tensor.name], value=tensor)
            proto.graph.node.insert(0, made)
    module = from_onnx(proto)
    assert sum(weight.shape == (8, 8, 3, 3) for weight in module.parameters()) == 1
    assert_equal(by_torch(module, [X]), by_runtime(proto, [X]))


def test_several_inputs_are_told_by_name_when_one_is_missing() -> None:
    nodes = [
        helper.make_node("Mul", ["left", "right"], ["m"]),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    proto = model(nodes, {"left": noise(2, 6), "right": noise(2, 6)}, {"w": noise(6, 3)})
    module = from_onnx(proto)
    with pytest.raises(OnnxError, match="takes the inputs 'left' and 'right'.*'right' is missing"):
        module(torch.rand(2, 6))


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 17, 21, 23, 24, 25])
def test_opsets_from_7_to_25_are_taken(opset: int) -> None:
    proto = classifier(opset=opset)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "b3"))
    proto.graph.node[5].input.append("b3")
    proto.ir_version = 3 if opset < 9 else 10
    if opset < 9:  # before IR 4, every initializer is an input as well
        for tensor in proto.graph.initializer:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            proto.graph.input.append(value)
    assert_equal(by_torch(from_onnx(proto), [X]), by_runtime(proto, [X]))


@pytest.mark.parametrize("steps", [22, *PROBES])
def test_a_fixed_batch_is_freed_whatever_the_other_sizes_are(steps: int) -> None:
    """Also where one of them is the size that stands for the batch while the module is built."""
    make = helper.make_node
    nodes = [
        make("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        make("Shape", ["t"], ["s"]),
        make("Slice", ["s", "zero", "one"], ["steps"]),
        make("Slice", ["s", "one", "two"], ["batch"]),
        make("Mul", ["steps", "batch"], ["rows"]),
        make("Concat", ["rows", "four"], ["flat"], axis=0),
        make("Reshape", ["t", "flat"], ["f"]),
        make("MatMul", ["f", "w"], ["m"]),
        make("Concat", ["steps", "batch", "rest"], ["back"], axis=0),
        make("Reshape", ["m", "back"], ["b"]),
        make("ReduceMean", ["b"], ["y"], axes=[0], keepdims=0),
    ]
    numbers = {"zero": 0, "one": 1, "two": 2, "four": 4, "rest": -1}
    held = {name: np.array([number]) for name, number in numbers.items()} | {"w": noise(4, 5)}
    read = from_onnx(model(nodes, {"x": noise(1, steps, 4)}, held, batch=1))
    assert read(*read.example_inputs(3)).shape == (3, 5)
