"""The contract of a runtime, for every timed one that is built in: what it says of itself, what it
makes of a model, what it refuses, and that it can be measured with."""

import math
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from latency_probes.measure import Measurer
from latency_probes.messages import MeasureError, Settings, Target
from latency_probes.runtimes import registry
from latency_probes.runtimes.base import InvalidModel, Placement, Runtime, UnsupportedOperator
from latency_probes.samples import Measurement
from tests.latency_probes_tests import onnx_models

PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "openvino": "CPU", "torch": "eager"}
QUICK = Settings(replicates=2, max_replicates=2, timing_s=0.02, time_limit_s=300)

TRUE = onnx_models.convnet(32, pixels=64, filled=False)
FILLED = onnx_models.convnet(32, pixels=64)

every_runtime = pytest.mark.parametrize("name", PROVIDERS)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A cache; torch has as many threads afterwards as before."""
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def runtime(name: str) -> Runtime:
    found: Any = registry.load(registry.offered((name,))[name])
    return found  # type: ignore[no-any-return]


def placement(name: str, provider: str = "", batch_size: int = 1, threads: int = 1) -> Placement:
    return Placement(provider or PROVIDERS[name], batch_size, threads)


def output(model: bytes, name: str, cache: Path, **how: Any) -> np.ndarray[Any, Any]:
    made: Any = runtime(name).load(model, placement(name, **how), cache)()
    return np.asarray(made[0]).copy()


def differ(model: bytes, name: str, cache: Path, **how: Any) -> float:
    """How far its outputs are from onnxruntime's, as a part of the largest."""
    wanted = output(model, "onnxruntime", cache)
    found = output(model, name, cache, **how)
    assert found.shape == (1, 10)
    assert np.abs(wanted).max() > 1e-3
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def cores_used(model: bytes, name: str, cache: Path, provider: str = "") -> float:
    """Processor time over time, with one thread."""
    call = runtime(name).load(model, placement(name, provider), cache)
    call()
    spent, started = time.process_time(), time.perf_counter()
    while time.perf_counter() - started < 0.1:
        call()
    return (time.process_time() - spent) / (time.perf_counter() - started)


@every_runtime
def test_it_says_what_it_is_and_where_it_can_run(name: str) -> None:
    found = runtime(name)
    assert found.version()[0].isdigit()
    if name != "torch":  # trying the compiler takes long; see below
        assert PROVIDERS[name] in found.providers()


@every_runtime
def test_outputs_are_those_of_onnxruntime_with_true_weights(name: str, cache: Path) -> None:
    assert differ(TRUE, name, cache) < 1e-3


@every_runtime
def test_a_skeleton_is_filled_with_the_same_noise(name: str, cache: Path) -> None:
    assert differ(FILLED, name, cache) < 1e-3


@every_runtime
def test_one_thread_is_one_thread(name: str, cache: Path) -> None:
    assert cores_used(FILLED, name, cache) < 1.2


def test_torch_announces_a_compiler_that_works_and_its_code_obeys_the_same_rules(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache / "now"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    grown = cache / "inductor" / "t1" / "grown"
    grown.parent.mkdir(parents=True)
    grown.touch()
    os.truncate(grown, 3 * 2**30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch._inductor import config
    with config.patch({"cpp.cxx": ("/nowhere/g++",)}):
        assert runtime("torch").providers() == ("eager",)
    with config.patch({"cpp.vec_isa_ok": True}):  # else it compiles a test per instruction set
        assert runtime("torch").providers()[:2] == ("eager", "compile")
        assert differ(TRUE, "torch", cache, provider="compile") < 1e-3
        assert differ(FILLED, "torch", cache, provider="compile") < 1e-3
        assert cores_used(FILLED, "torch", cache, "compile") < 1.2
    assert not grown.exists()


@every_runtime
def test_a_batch_of_two_is_run_and_another_refused(name: str, cache: Path) -> None:
    model = onnx_models.convnet(16, batch=2)
    assert output(model, name, cache, batch_size=2).shape == (2, 10)
    with pytest.raises(InvalidModel, match="must have batch size 3, but got 2"):
        output(model, name, cache, batch_size=3)


@every_runtime
def test_a_free_batch_takes_the_asked_size(name: str, cache: Path) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    model = onnx_models.model([relu], [], ["n", 4], [1, 4])
    assert output(model, name, cache, batch_size=3).shape == (3, 4)


@every_runtime
def test_a_provider_that_is_not_there_is_refused(name: str, cache: Path) -> None:
    with pytest.raises(InvalidModel, match="provider must be one of"):
        output(onnx_models.convnet(), name, cache, provider="NoSuchProvider")


@every_runtime
@pytest.mark.parametrize("model", [b"", b"rubbish", onnx_models.convnet()[:-40]])
def test_bytes_that_are_no_model_are_refused(name: str, model: bytes, cache: Path) -> None:
    with pytest.raises(InvalidModel):
        output(model, name, cache)


@every_runtime
def test_shapes_that_do_not_fit_are_refused(name: str, cache: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    broken = onnx_models.model([node], [onnx_models.to_fill("w", [5, 5])], [1, 4], [1, 5])
    with pytest.raises(InvalidModel):
        output(broken, name, cache)


@every_runtime
def test_every_operator_that_it_lacks_is_named(name: str, cache: Path) -> None:
    nodes = [
        helper.make_node("Unheard", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Fancy", ["b"], ["y"], domain="my"),
    ]
    model = onnx_models.model(nodes, [], [1, 4], [1, 4])
    with pytest.raises(UnsupportedOperator):
        output(model, name, cache)
    assert runtime(name).lacking(model, placement(name)) == ("Unheard", "my.Fancy")


@every_runtime
def test_a_known_model_lacks_nothing(name: str) -> None:
    model = onnx_models.convnet(filled=False)
    assert runtime(name).lacking(model, placement(name)) == ()


@every_runtime
def test_too_little_memory_is_told(name: str, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"memory_limit_mb": 1024})
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = onnx_models.to_fill("w", [4, 10**8])
    found = measure(
        onnx_models.model([node], [weight], [1, 4], [1, 10**8]), name, tmp_path, settings
    )
    assert isinstance(found, MeasureError)
    assert found.kind == "out_of_memory"
    assert "allocate" in found.message  # the library itself was imported within the limit


@every_runtime
def test_it_is_measured_in_children_and_tells_what_it_costs_to_load(
    name: str, tmp_path: Path
) -> None:
    settings = QUICK.model_copy(update={"profile": name != "torch"})  # torch has none
    found = measure(onnx_models.convnet(16, norm=False), name, tmp_path, settings)
    assert isinstance(found, Measurement)
    assert any("Conv" in op for _, op, _ in found.profile) == settings.profile
    assert found.runtime_version == runtime(name).version()
    assert found.load_ms is not None
    assert found.reference_load_ms is not None
    assert found.reference_cold_ms is not None
    assert min(found.load_ms, found.reference_load_ms) > 0
    assert found.load_ms + found.reference_load_ms < sum(r.setup_ms for r in found.replicates)
    assert found.peak_rss_mb is not None
    assert found.peak_rss_mb > 10
    assert math.isfinite(found.ratio)


def measure(
    model: bytes, name: str, directory: Path, settings: Settings
) -> Measurement | MeasureError:
    (directory / "candidate").write_bytes(model)
    (directory / "reference").write_bytes(onnx_models.convnet(16, norm=False))
    measurer = Measurer(registry.offered((name,)), directory)
    target = Target(runtime=name, provider=PROVIDERS[name])
    return measurer.measure(directory / "candidate", directory / "reference", target, settings)
