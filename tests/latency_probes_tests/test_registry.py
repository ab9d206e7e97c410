"""Runtimes of installed packages: found through their entry point, and measured with."""

import os
from pathlib import Path

import pytest

from latency_probes.local import LocalModel, LocalProbe, Measured
from latency_probes.messages import Capabilities, Settings, Target
from latency_probes.runtimes import registry
from latency_probes.spawn import describe_device

_MODULE = """
import time

class Naps:
    def version(self):
        return "1.2"

    def providers(self):
        return ("couch",)

    def lacking(self, model, placement):
        return ()

    def load(self, model, placement, cache):
        return lambda: time.sleep(len(model) / 1e5)
"""


@pytest.fixture
def naps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a runtime that a package brought along."""
    (tmp_path / "napping.py").write_text(_MODULE)
    information = tmp_path / "napping-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: napping\nVersion: 1.2\n")
    (information / "entry_points.txt").write_text("[secateur.runtimes]\nnaps = napping:Naps\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = (str(tmp_path), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    return "naps"


def test_an_installed_runtime_is_offered_and_described(naps: str) -> None:
    device = describe_device({naps: registry.offered()[naps]}, ())
    assert isinstance(device, Capabilities)
    runtime = device.runtimes[naps]
    assert (runtime.version, runtime.providers) == ("1.2", ("couch",))


def test_an_installed_runtime_is_measured_with(naps: str) -> None:
    settings = Settings(replicates=2, max_replicates=2, timing_s=0.02, time_limit_s=30)
    probe = LocalProbe(b"r" * 400, Target(runtime=naps, provider="couch"), settings)
    (found,) = probe([LocalModel(b"c" * 100)])
    assert isinstance(found, Measured)
    assert found.ratio < 0.7
    assert found.measurement.runtime_version == "1.2"


def test_a_runtime_that_nobody_brought_is_refused() -> None:
    with pytest.raises(ValueError, match="runtimes must be among .* but got \\['naps'\\]"):
        registry.offered(("naps",))


def test_replay_and_torch_are_offered_only_by_name() -> None:
    assert {"onnxruntime", "openvino"} <= set(registry.offered())
    assert not {"replay", "torch"} & set(registry.offered())
    assert set(registry.offered(("replay", "torch"))) == {"replay", "torch"}
