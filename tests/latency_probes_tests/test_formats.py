"""The formats of int8 that a runtime announces are those that it computes exactly here."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from latency_probes.messages import MeasureError, RuntimeInfo
from latency_probes.runtimes import registry
from latency_probes.runtimes.exactness import exact_u8s8
from latency_probes.runtimes.onnx_runtime import OnnxRuntime
from latency_probes.spawn import describe_device

TYPES = {"u8": (np.uint8, TensorProto.UINT8), "s8": (np.int8, TensorProto.INT8)}
WEIGHTS = {
    "u8u8": ("u8", 255), "u8s8": ("s8", 127), "s8s8": ("s8", -127), "u8s7": ("s8", -64),
}  # fmt: skip


def largest_sum(name: str) -> tuple[int, int]:
    """Of 64 products of the largest integers: by ONNX Runtime, and in truth."""
    kind, weight = WEIGHTS[name]
    (array, proto), (w_array, _) = TYPES[name[:2]], TYPES[kind]
    value = 255 if name.startswith("u8") else -128
    held = onnx.numpy_helper.from_array(np.full((64, 16), weight, w_array), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "sum",
        [helper.make_tensor_value_info("x", proto, [16, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [16, 16])],
        [held],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"x": np.full((16, 64), value, array)})
    return int(found[0, 0]), 64 * value * weight


@pytest.mark.parametrize("name", OnnxRuntime().formats())
def test_the_largest_sum_of_an_announced_format_is_exact(name: str) -> None:
    found, wanted = largest_sum(name)
    assert found == wanted


def test_full_weights_are_announced_only_where_they_are_exact() -> None:
    found, wanted = largest_sum("u8s8")
    assert exact_u8s8() == (found == wanted)
    assert ("u8s8" in OnnxRuntime().formats()) == exact_u8s8()


def test_a_device_says_which_formats_it_has() -> None:
    device = describe_device({"onnxruntime": registry.offered()["onnxruntime"]}, ())
    assert not isinstance(device, MeasureError)
    assert device.runtimes["onnxruntime"].formats == OnnxRuntime().formats()


def test_an_agent_of_before_announces_none() -> None:
    assert RuntimeInfo(version="1", providers=("CPUExecutionProvider",)).formats == ()
