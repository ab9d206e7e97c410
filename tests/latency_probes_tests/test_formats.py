"""The formats of int8 that a runtime announces are those that it computes exactly here."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from latency_probes.messages import MeasureError, RuntimeInfo
from latency_probes.runtimes import exactness, registry
from latency_probes.runtimes.exactness import SHAPE
from latency_probes.runtimes.onnx_runtime import OnnxRuntime
from latency_probes.spawn import describe_device

RUNTIMES = [OnnxRuntime()]
if importlib.util.find_spec("openvino") is not None:
    RUNTIMES.append(importlib.import_module("latency_probes.runtimes.openvino_runtime").OpenVino())
TYPES = {"u8": (np.uint8, 0), "s8": (np.int8, -128), "s7": (np.int8, 0)}
LARGEST = {"u8": 255, "s8": 127, "s7": 64}


def product(name: str) -> bytes:
    """One product of matrices between Q and DQ, with the largest weights of a format."""
    (kind, zero), weight = TYPES[name[:2]], LARGEST[name[2:]]
    w_kind = np.uint8 if name.endswith("u8") else np.int8
    depth, most = SHAPE[1], 255 * weight * SHAPE[1]
    constants = {
        "xs": np.float32(1), "xz": kind(zero), "w": np.full((depth, 16), weight, w_kind),
        "ws": np.ones(16, np.float32), "wz": np.zeros(16, w_kind),
        "ys": np.float32(most / 250), "yz": kind(zero),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


@pytest.mark.parametrize(("name", "format_"), [("uint8", "u8s8"), ("int8", "s8s8")])
def test_the_models_that_ask_are_those_that_are_built_here(name: str, format_: str) -> None:
    assert Path(exactness.__file__).with_name(f"sums_{name}.onnx").read_bytes() == product(format_)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: type(runtime).__name__)
def test_the_largest_sum_of_an_announced_format_is_exact_and_of_no_other(runtime: Any) -> None:
    run = sys.modules[type(runtime).__module__]._run
    for name in ("u8s8", "u8s7", "s8s8", "u8u8"):
        most = 255 * LARGEST[name[2:]] * SHAPE[1]
        found = run(product(name), np.full(SHAPE, 255, np.float32))
        is_exact = bool(np.allclose(found, most, rtol=0.01))
        if name in runtime.formats():
            assert is_exact
        elif name in ("u8s8", "s8s8"):
            assert not is_exact


def test_a_device_without_the_onnx_package_says_what_it_has() -> None:
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from latency_probes.runtimes.onnx_runtime import OnnxRuntime\n"
        "print(','.join(OnnxRuntime().formats()))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ",".join(OnnxRuntime().formats())


def test_a_device_says_which_formats_it_has() -> None:
    device = describe_device({"onnxruntime": registry.offered()["onnxruntime"]}, ())
    assert not isinstance(device, MeasureError)
    assert device.runtimes["onnxruntime"].formats == OnnxRuntime().formats()


def test_an_agent_of_before_announces_none() -> None:
    assert RuntimeInfo(version="1", providers=("CPUExecutionProvider",)).formats == ()
