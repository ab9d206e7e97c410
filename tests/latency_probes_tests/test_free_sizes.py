"""A file that leaves sizes free is measured at those that the request tells, fixed at load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from latency_probes.local import LocalModel, LocalProbe, Measured
from latency_probes.messages import MeasureRequest, Settings, Workload, encode, parse_request
from latency_probes.runtimes import registry
from latency_probes.runtimes.base import InvalidModel, Placement, RecordedRuntime
from latency_probes.runtimes.feeding import feed

SIZES = {"images": (3, 8, 12)}


def free(*sizes: int | str) -> bytes:
    """A convolution whose input has these sizes."""
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    return data


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("sizes", [("N", 3, "h", "w_"), (-1, 3, -1, -1), (2, 3, 8, 12)])
def test_every_runtime_loads_it_at_these_sizes(
    tmp_path: Path, name: str, sizes: tuple[int | str, ...]
) -> None:
    provider = {"openvino": "CPU", "torch": "eager"}.get(name, "CPUExecutionProvider")
    runtime = registry.load(registry.offered((name,))[name])
    assert not isinstance(runtime, RecordedRuntime)
    made: Any = runtime.load(free(*sizes), Placement(provider, 2, 1, SIZES), tmp_path)()
    assert [np.asarray(found).shape for found in made] == [(2, 4, 1, 1)]


def test_names_of_free_sizes_are_told_to_the_library(tmp_path: Path) -> None:
    fed = feed(free("N", 3, "h", "w_"), Placement("CPUExecutionProvider", 2, 1, SIZES), tmp_path)
    assert fed.free == {"N": 2, "h": 8, "w_": 12}
    with pytest.raises(InvalidModel, match="or one that the request tells"):
        feed(free("N", 3, "h", "w_"), Placement("CPUExecutionProvider", 2, 1), tmp_path)


def test_free_sizes_without_a_name_are_fixed_in_what_is_loaded(tmp_path: Path) -> None:
    data = free(-1, 3, -1, -1)
    fed = feed(data, Placement("CPUExecutionProvider", 2, 1, SIZES), tmp_path)
    found, wanted = ModelProto.FromString(fed.onnx_bytes), ModelProto.FromString(data)
    dims = found.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [2, 3, 8, 12]
    for proto in (found, wanted):
        proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert found == wanted


def test_a_local_probe_measures_it() -> None:
    data = free("N", 3, "h", "w_")
    settings = Settings(replicates=2, max_replicates=2, timing_s=0.02, sizes=SIZES)
    (found,) = LocalProbe(data, settings=settings)([LocalModel(data)])
    assert isinstance(found, Measured)


def test_agents_of_before_are_told_no_sizes_unless_there_are_some() -> None:
    workload = Workload.of(b"model")
    lease = {"request_id": "r", "attempt": 0, "lease_token": "t"}
    for sizes in (None, SIZES):
        request = MeasureRequest(
            candidate=workload, reference=workload, settings=Settings(sizes=sizes), **lease
        )
        text = encode(request)
        assert ("sizes" in text) == (sizes is not None)
        assert parse_request(text) == request
