"""`secateur.prune(runtime="auto")`: the runtimes of this machine, and those that fail."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import secateur
from latency_probes.local import Measured
from latency_probes.messages import Settings, Target
from search.errors import ConfigError
from search.quantization import FORMATS
from secateur.errors import MeasuringError
from secateur.precision import Int8
from secateur.runtimes import fastest_here
from secateur.settings import target_of
from tests.e2e_tests.nets import TinyResNet
from tests.secateur_tests.test_pruning import stripes
from tests.workers_tests.rows import measured

pytest.importorskip("openvino")
AUTO = Target(runtime="auto", threads=1)
FLOAT_MS = {"onnxruntime": 4.0, "openvino": 5.0}


def dense(latency_ms: float) -> Measured:
    found = measured(round(1e6 * latency_ms), round(1e6 * latency_ms), kind="strict")
    return Measured(1.0, 1.0, 1.0, latency_ms, found)


def in_openvino(target: Target) -> tuple[Measured, Int8]:
    """OpenVINO alone has int8."""
    has_int8 = target.runtime == "openvino"
    int8 = Int8(FORMATS["u8s8"], {"u8s8": 0.5}, ("conv",), {"s8s8": "crashed: as if"})
    return dense(FLOAT_MS[target.runtime]), int8 if has_int8 else Int8(None, {})


def test_the_runtimes_that_are_installed_here_are_measured_and_the_fastest_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = partial(Settings, kind="strict", replicates=3, max_replicates=3)
    monkeypatch.setattr(Settings, "strict", brief)
    monkeypatch.setattr(Settings, "screening", partial(Settings, replicates=2, max_replicates=2))
    torch.manual_seed(0)
    result = secateur.prune(
        TinyResNet(), stripes(300, 1), stripes(60, 2), ratio=1.5, runtime="auto",
        precision="auto", calibration=32, progress=False,
    )  # fmt: skip
    known = {(row["runtime"], row["format"]): row for row in result.runtimes}
    assert {("onnxruntime", "float32"), ("openvino", "float32")} <= set(known)
    assert {runtime for runtime, form in known if form != "float32"} == {"onnxruntime", "openvino"}
    assert {row["error"] for row in known.values()} == {None}
    assert all(known[runtime, "float32"]["ratio"] == 1.0 for runtime, _ in known)
    for (runtime, _), row in known.items():
        float_ms = known[runtime, "float32"]["latency_ms"]
        assert row["latency_ms"] == pytest.approx(row["ratio"] * float_ms)
    best = min(known.values(), key=lambda row: row["latency_ms"])
    assert result.target == Target().in_runtime(best["runtime"]).key
    assert result.dense_measurement.reference_ms > 0
    assert f"{best['runtime']}  " in str(result.report())
    result.save(tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["result"]["runtimes"] == [dict(row) for row in result.runtimes]
    for name in ("report.html", "model.md"):
        assert f"Deploy the result in {best['runtime']} (" in (tmp_path / name).read_text()


def test_the_fastest_answer_decides_and_failures_are_listed() -> None:
    found = fastest_here(AUTO, "auto", in_openvino)
    assert (found.target, found.dense.latency_ms) == (AUTO.in_runtime("openvino"), 5.0)
    told = [(each.runtime, each.format, each.latency_ms, each.error) for each in found.answers]
    assert told == [
        ("onnxruntime", "float32", 4.0, None),
        ("openvino", "float32", 5.0, None),
        ("openvino", "u8s8", 2.5, None),
        ("openvino", "s8s8", None, "crashed: as if"),
    ]


def test_a_runtime_that_fails_loses_and_all_that_fail_are_an_error() -> None:
    def only(*working: str) -> tuple[str, ...]:
        def ask(target: Target) -> tuple[Measured, Int8]:
            if target.runtime not in working:
                raise MeasuringError(f"{target.runtime} lacks Foo")
            return dense(FLOAT_MS[target.runtime]), Int8(None, {})

        found = fastest_here(AUTO, "auto", ask)
        return found.target.runtime, *(str(each.error) for each in found.answers)

    assert only("openvino") == ("openvino", "onnxruntime lacks Foo", "None")
    with pytest.raises(MeasuringError, match="onnxruntime lacks Foo; openvino lacks Foo"):
        only()


def test_int8_that_no_runtime_has_is_refused() -> None:
    def no_int8(target: Target) -> tuple[Measured, Int8]:
        return dense(FLOAT_MS[target.runtime]), Int8(None, {})

    with pytest.raises(ConfigError, match="but none of onnxruntime, openvino runs"):
        fastest_here(AUTO, "int8", no_int8)
    assert fastest_here(AUTO, "int8", in_openvino).target.runtime == "openvino"


def test_a_runtime_takes_its_usual_provider_along() -> None:
    given = Target(threads=2)
    assert target_of(given, "openvino", None).key == "openvino/CPU/b1/t2"
    assert target_of(given, "auto", 4) == Target(runtime="auto", batch_size=4, threads=2)
    assert target_of(given, None, None) == given
    with pytest.raises(ConfigError, match="runtime must match"):
        target_of(given, "no spaces", None)
