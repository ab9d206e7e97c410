"""Replay: recorded latencies, the function of shapes for the rest, no process, no noise."""

import json
import threading
import time
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from latency_probes import onnx_reader, shapes
from latency_probes.local import Failed, LocalModel, LocalProbe, Measured
from latency_probes.measure import Measurer
from latency_probes.messages import MeasureError, Settings, Target
from latency_probes.runtimes import registry
from latency_probes.runtimes.base import Recorded
from latency_probes.runtimes.replay import Recording, Replay, synthetic_latency_ns
from latency_probes.samples import Measurement
from latency_probes.spawn import Withdrawn
from tests.latency_probes_tests import onnx_models

_REPLAY = Target(runtime="replay")


def test_the_latency_of_a_known_model_is_the_documented_sum() -> None:
    conv = 500 + 16 * 8 * 9 * 64 // 16
    linear = 500 + 16 * 16 // 16
    elementwise = 2 * (200 + 12 * 64 // 16)
    pooled = 2 * (200 + 12 // 16)
    expected = 20_000 + conv + elementwise + pooled + linear
    assert synthetic_latency_ns(onnx_models.convnet(12)) == expected


def test_the_latency_is_a_staircase_in_the_width() -> None:
    stairs = [synthetic_latency_ns(onnx_models.convnet(w)) for w in range(8, 41)]
    steps = [later - earlier for earlier, later in pairwise(stairs)]
    assert min(steps) >= 0
    jumps = [width for width, step in zip(range(9, 41), steps, strict=True) if step > 1000]
    assert jumps == [9, 17, 25, 33]


def test_unknown_models_give_exactly_the_same_ratio_at_no_time() -> None:
    probe = LocalProbe(onnx_models.convnet(64), _REPLAY)
    began = time.monotonic()
    outcomes = probe([LocalModel(onnx_models.convnet(24))] * 20)
    assert time.monotonic() - began < 2
    ratios = {(o.ratio, o.ratio_low, o.ratio_high) for o in outcomes if isinstance(o, Measured)}
    expected = synthetic_latency_ns(onnx_models.convnet(24)) / synthetic_latency_ns(
        onnx_models.convnet(64)
    )
    assert len(ratios) == 1
    assert ratios.pop() == pytest.approx((expected,) * 3)
    assert len(outcomes) == 20


def test_a_model_that_cannot_be_read_is_invalid() -> None:
    (found,) = LocalProbe(onnx_models.convnet(), _REPLAY)([LocalModel(b"rubbish")])
    assert isinstance(found, Failed)
    assert found.kind == "invalid"


def _measure(tmp_path: Path, stop: threading.Event | None = None) -> Measurement | MeasureError:
    for name in ("candidate", "reference"):
        (tmp_path / name).write_bytes(name.encode())
    measurer = Measurer(registry.offered(("replay",)), tmp_path)
    return measurer.measure(
        tmp_path / "candidate", tmp_path / "reference", _REPLAY, Settings.strict(), stop
    )


def _record(path: Path, monkeypatch: pytest.MonkeyPatch, **document: Any) -> None:
    path.write_text(json.dumps(document))
    monkeypatch.setenv("SECATEUR_REPLAY", str(path))


def test_a_recording_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latencies = {
        sha256(b"candidate").hexdigest(): {"latency_ns": 500},
        sha256(b"reference").hexdigest(): {"latency_ns": 1000},
    }
    _record(tmp_path / "r.json", monkeypatch, name="phone", latencies=latencies)
    found = _measure(tmp_path)
    assert isinstance(found, Measurement)
    assert found.ratio == pytest.approx(0.5)
    assert found.runtime_version == "1 (phone)"
    assert (found.kind, len(found.replicates)) == ("strict", 6)


def test_a_recorded_error_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"error": "crashed", "message": "as on the phone"}
    latencies = {sha256(b"candidate").hexdigest(): error}
    _record(tmp_path / "r.json", monkeypatch, latencies=latencies)
    assert _measure(tmp_path) == MeasureError(kind="crashed", message="as on the phone")


def test_a_delayed_recording_can_be_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _record(tmp_path / "r.json", monkeypatch, delay_s=30)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Withdrawn):
        _measure(tmp_path, stop)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"latency": {}},
        {"delay_s": -1},
        {"delay_s": "soon"},
        {"delay_s": []},
        {"name": "n" * 65},
        {"provider": 5},
        {"latencies": []},
        {"latencies": {"x": 5}},
        {"latencies": {"x": {"latency_ns": -5}}},
        {"latencies": {"x": {"latency_ns": 1.5}}},
        {"latencies": {"x": {"error": "tired"}}},
    ],
)
def test_a_malformed_recording_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        Recording.parse(json.dumps(document))


def test_replay_is_never_offered_by_default() -> None:
    assert "replay" in registry.available()
    assert "replay" not in registry.offered()
    assert list(registry.offered(("replay",))) == ["replay"]


def test_unknown_runtimes_and_malformed_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="runtimes must be among"):
        registry.offered(("abacus",))
    with pytest.raises(ValueError, match="module:callable"):
        registry.load("os; import sys")


def test_a_recording_names_its_provider() -> None:
    replay = Replay(Recording(provider="NpuExecutionProvider"))
    assert replay.providers() == ("NpuExecutionProvider",)
    assert replay.look_up("0" * 64, onnx_models.convnet()) != Recorded()


@pytest.mark.parametrize(
    ("op", "attributes", "second", "expected"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2]}, None, (1, 4, 4, 4)),
        ("AveragePool", {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}, None, (1, 4, 10, 10)),
        ("GlobalMaxPool", {}, None, (1, 4, 1, 1)),
        ("ReduceMean", {"keepdims": 0}, None, (1, 4)),
        ("ReduceMean", {}, None, (1, 4, 1, 1)),
        ("Flatten", {}, None, (1, 324)),
        ("Concat", {"axis": 1}, "x", (1, 8, 9, 9)),
        ("Concat", {"axis": -1}, "x", (1, 4, 9, 18)),
        ("Add", {}, "v", (1, 4, 9, 9)),
        ("Conv", {"dilations": [2, 2]}, "k", (1, 6, 5, 5)),
        ("MatMul", {}, "m", (1, 4, 9, 7)),
        ("Relu", {}, None, (1, 4, 9, 9)),
    ],
)
def test_output_shapes(
    op: str, attributes: dict[str, Any], second: str | None, expected: tuple[int, ...]
) -> None:
    node = helper.make_node(op, ["x", second] if second else ["x"], ["y"], **attributes)
    weights = [
        onnx_models.to_fill("v", [4, 1, 1]),
        onnx_models.to_fill("k", [6, 4, 3, 3]),
        onnx_models.to_fill("m", [9, 7]),
    ]
    structure = onnx_reader.read(onnx_models.model([node], weights, [1, 4, 9, 9], [1]))
    assert shapes.infer(structure)["y"] == expected


def test_sizes_that_are_free_count_as_one() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    structure = onnx_reader.read(onnx_models.model([node], [], ["n", 4], [1, 4]))
    assert shapes.infer(structure)["y"] == (1, 4)


def test_an_unknown_rank_is_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    structure = onnx_reader.read(onnx_models.model([node], [], [], [1, 4]))
    with pytest.raises(onnx_reader.OnnxFormatError, match="must have a fixed shape"):
        shapes.infer(structure)


def test_a_window_without_all_its_sizes_is_refused() -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3])
    structure = onnx_reader.read(onnx_models.model([node], [], [1, 4, 9, 9], [1]))
    with pytest.raises(onnx_reader.OnnxFormatError, match="one kernel size and stride per axis"):
        shapes.infer(structure)
