"""Measuring for real: a child per replicate, tiny models under ONNX Runtime, and every way to go
wrong."""

import os
import threading
import time
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from latency_probes.conditions import usable_cores
from latency_probes.local import Failed, LocalModel, LocalProbe, Measured
from latency_probes.measure import Measurer
from latency_probes.messages import (
    MAX_MESSAGE_BYTES,
    Capabilities,
    MeasureError,
    Settings,
    Target,
    encode,
)
from latency_probes.runtimes import registry
from latency_probes.samples import Measurement
from latency_probes.spawn import Withdrawn, describe_device
from tests.latency_probes_tests import onnx_models

_QUICK = Settings(replicates=2, max_replicates=2, timing_s=0.02, time_limit_s=30)
_HERE = "tests.latency_probes_tests.misbehaving"


def _measure(
    directory: Path,
    candidate: bytes,
    reference: bytes,
    *,
    runtime: str = "latency_probes.runtimes.onnx_runtime:OnnxRuntime",
    settings: Settings = _QUICK,
    target: Target | None = None,
    stop: threading.Event | None = None,
) -> Measurement | MeasureError:
    (directory / "candidate").write_bytes(candidate)
    (directory / "reference").write_bytes(reference)
    measurer = Measurer({"onnxruntime": runtime}, directory)
    return measurer.measure(
        directory / "candidate", directory / "reference", target or Target(), settings, stop
    )


def _misbehaving(directory: Path, name: str, limit_s: float = 20) -> MeasureError:
    settings = _QUICK.model_copy(update={"time_limit_s": limit_s, "memory_limit_mb": 1024})
    found = _measure(directory, b"c", b"r", runtime=f"{_HERE}:{name}", settings=settings)
    assert isinstance(found, MeasureError)
    return found


def test_a_wider_network_is_slower(tmp_path: Path) -> None:
    narrow, wide = onnx_models.convnet(16, pixels=64), onnx_models.convnet(256, pixels=64)
    found = _measure(tmp_path, narrow, wide)
    assert isinstance(found, Measurement)
    assert found.ratio < 0.7
    assert found.latency_ms < found.reference_ms
    assert found.runtime_version.count(".") == 2
    first = found.replicates[0]
    assert len(found.replicates) == 2
    assert min(first.sentinel_ns) > 0
    assert first.candidate_cold_ns > 0
    assert first.peak_rss_mb > 10
    assert 0 < first.setup_ms + first.timing_ms < first.process_ms
    assert len(first.candidate_ns) >= 3


def test_the_peak_of_memory_is_the_child_s_own(tmp_path: Path) -> None:
    ours = bytearray(b"x" * 2**29)
    found = _measure(tmp_path, onnx_models.convnet(), onnx_models.convnet())
    assert isinstance(found, Measurement)
    assert found.peak_rss_mb is not None
    assert 10 < found.peak_rss_mb < len(ours) / 2**20


def test_filled_and_true_weights_may_be_mixed(tmp_path: Path) -> None:
    filled, true = onnx_models.convnet(16), onnx_models.convnet(16, filled=False)
    assert isinstance(_measure(tmp_path, true, filled), Measurement)


def test_an_operator_that_the_runtime_lacks_is_told(tmp_path: Path) -> None:
    nodes = [helper.make_node("Unheard", ["x"], ["a"]), helper.make_node("Unknown", ["a"], ["y"])]
    model = onnx_models.model(nodes, [], [1, 4], [1, 4])
    found = _measure(tmp_path, model, onnx_models.convnet())
    assert isinstance(found, MeasureError)
    assert found.kind == "unsupported_op"
    assert found.message.startswith("the runtime lacks Unheard, Unknown (")


def test_a_model_whose_shapes_do_not_fit_is_invalid(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = onnx_models.to_fill("w", [5, 5])
    broken = onnx_models.model([node], [weight], [1, 4], [1, 5])
    found = _measure(tmp_path, broken, onnx_models.convnet())
    assert isinstance(found, MeasureError)
    assert found.kind == "invalid"


def test_a_model_that_reads_other_files_is_invalid(tmp_path: Path) -> None:
    tensor = onnx_models.to_fill("w", [4, 4], TensorProto.FLOAT)
    tensor.external_data[0].value = "/etc/passwd"
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    evil = onnx_models.model([node], [tensor], [1, 4], [1, 4])
    found = _measure(tmp_path, evil, onnx_models.convnet())
    assert isinstance(found, MeasureError)
    assert found.kind == "invalid"
    assert "must be inline" in found.message


def test_a_provider_that_is_not_there_is_told(tmp_path: Path) -> None:
    target = Target(provider="NoSuchProvider")
    found = _measure(tmp_path, onnx_models.convnet(), onnx_models.convnet(), target=target)
    assert isinstance(found, MeasureError)
    assert "provider must be one of" in found.message


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Segfaults", "crashed", "SIGSEGV"),
        ("Raises", "crashed", "surprise"),
        ("Floods", "crashed", "the child wrote more than 67108864 bytes of errors"),
        ("EndsStrangely", "crashed", "ended by signal 35"),
        ("Exits", "crashed", "bye"),
        ("IsKilled", "out_of_memory", "the child was ended"),
        ("EatsMemory", "out_of_memory", ""),
        ("Refuses", "invalid", "refused 1 bytes at batch 1"),
        ("NeedsAMissingLibrary", "crashed", "no such library"),
        ("Absent", "crashed", "Absent"),
    ],
)
def test_whatever_happens_to_the_child_is_a_typed_error(
    tmp_path: Path, name: str, kind: str, message: str
) -> None:
    found = _misbehaving(tmp_path, name)
    assert found.kind == kind
    assert message in found.message


def test_a_child_that_hangs_is_ended_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    assert _misbehaving(tmp_path, "Hangs", limit_s=1.0).kind == "timeout"
    assert time.monotonic() - began < 10


def test_a_library_that_prints_does_not_spoil_the_reply(tmp_path: Path) -> None:
    found = _measure(tmp_path, b"c", b"r", runtime=f"{_HERE}:Prints")
    assert isinstance(found, Measurement)


def test_a_profile_holds_the_dearest_layers_and_fits_a_message(tmp_path: Path) -> None:
    settings = _QUICK.model_copy(update={"profile": True})
    found = _measure(tmp_path, b"c", b"r", runtime=f"{_HERE}:ManyLayers", settings=settings)
    assert isinstance(found, Measurement)
    assert [ns for _, _, ns in found.profile] == list(range(1000, 3000))
    assert found.profile[0][:2] == ("?" * 100, "Conv")
    samples = tuple(tuple(10**9 + n for n in range(20)) for _ in range(32))
    longest = found.replicates[0].model_copy(
        update={"candidate_ns": samples, "reference_ns": samples}
    )
    grown = found.model_copy(update={"replicates": (longest,) * 12})
    assert len(encode(grown)) < MAX_MESSAGE_BYTES


def test_a_profile_that_fails_costs_nothing_but_itself(tmp_path: Path) -> None:
    settings = _QUICK.model_copy(update={"profile": True})
    found = _measure(tmp_path, b"c", b"r", runtime=f"{_HERE}:FailsToProfile", settings=settings)
    assert isinstance(found, Measurement)
    assert found.profile == ()


def test_a_runtime_with_a_clock_of_its_own_is_timed_by_it(tmp_path: Path) -> None:
    found = _measure(tmp_path, b"c", b"r", runtime=f"{_HERE}:HasAClockOfItsOwn")
    assert isinstance(found, Measurement)
    assert found.latency_ms == found.reference_ms == 1.0


def test_no_process_outlives_its_measurement(tmp_path: Path) -> None:
    assert _misbehaving(tmp_path, "LeavesAChild", limit_s=3.0).kind == "timeout"
    orphan = int((tmp_path / "orphan").read_text())
    deadline = time.monotonic() + 5
    while _lives(orphan) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(orphan)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_withdrawn_measurement_ends_at_once(tmp_path: Path) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Withdrawn):
        _measure(tmp_path, b"c", b"r", runtime=f"{_HERE}:Hangs", stop=stop)
    timer.join()
    assert time.monotonic() - began < 5


def test_the_child_gets_a_fixed_environment_and_its_cores(tmp_path: Path) -> None:
    found = _misbehaving(tmp_path, "ReportsItsEnvironment")
    expected = ["33554432", "1073741824", "1"]
    assert found.message == f"{expected} {[usable_cores()[-1]]} []"


def test_more_threads_than_cores_are_refused(tmp_path: Path) -> None:
    measurer = Measurer(registry.offered(("onnxruntime",)), tmp_path, usable_cores()[:1])
    found = measurer.measure(tmp_path, tmp_path, Target(threads=2), _QUICK)
    assert found == MeasureError(
        kind="invalid", message="threads must be at most 1 here, but got 2"
    )


def test_a_runtime_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    found = Measurer({}, tmp_path).measure(tmp_path, tmp_path, Target(), _QUICK)
    assert isinstance(found, MeasureError)
    assert found.message == "runtime must be among [], but got 'onnxruntime'"


def test_a_device_announces_the_runtimes_that_work() -> None:
    paths = {
        "onnxruntime": registry.offered()["onnxruntime"],
        "missing": f"{_HERE}:NeedsAMissingLibrary",
        "absent": "no.such.module:Runtime",
        "odd": f"{_HERE}:Odd",
        "a name": f"{_HERE}:Raises",
        "numbered": f"{_HERE}:Numbered",
    }
    device = describe_device(paths, ())
    assert isinstance(device, Capabilities)
    assert list(device.runtimes) == ["onnxruntime", "numbered"]
    assert device.runtimes["numbered"].version == "7"
    assert "CPUExecutionProvider" in device.runtimes["onnxruntime"].providers
    assert "AzureExecutionProvider" not in device.runtimes["onnxruntime"].providers


def test_a_runtime_sees_its_own_variables_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@host/name")
    monkeypatch.setenv("VENDOR_HOME", "/opt/vendor")

    device = describe_device({"curious": f"{_HERE}:Curious"}, ())
    assert isinstance(device, Capabilities)
    assert device.runtimes["curious"].version == "VENDOR_HOME"


def test_a_local_probe_gives_an_outcome_per_model_in_order() -> None:
    probe = LocalProbe(onnx_models.convnet(64, pixels=32), settings=_QUICK)
    good, bad = probe([LocalModel(onnx_models.convnet(8, pixels=32)), LocalModel(b"rubbish")])
    probe.close()
    assert isinstance(good, Measured)
    assert good.ratio_low <= good.ratio <= good.ratio_high
    assert good.latency_ms == good.measurement.latency_ms
    assert isinstance(bad, Failed)
    assert bad.error == bad.kind == "invalid"


def test_a_local_probe_leaves_no_files(tmp_path: Path) -> None:
    before = set(Path(os.environ.get("TMPDIR", "/tmp")).glob("secateur-probe-*"))
    probe = LocalProbe(onnx_models.convnet(), settings=_QUICK)
    del probe
    assert set(Path(os.environ.get("TMPDIR", "/tmp")).glob("secateur-probe-*")) <= before


def test_the_package_offers_the_local_probe_by_name() -> None:
    import latency_probes

    assert latency_probes.LocalProbe is LocalProbe
    with pytest.raises(AttributeError, match="no attribute 'Absent'"):
        _ = latency_probes.Absent
