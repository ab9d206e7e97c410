"""A whole job through the REST API on the replay runtime, from the upload to the artifacts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch

from search.loading import load_pruned
from tests.e2e_tests.nets import images, tiny_resnet
from tests.e2e_tests.service import Service

ROOT = Path(__file__).parent.parent.parent
FILES = {
    "dense.onnx",
    "model.md",
    "model.onnx",
    "model.safetensors",
    "plan.json",
    "report.html",
    "report.json",
}


@pytest.fixture(scope="module")
def files(running: Service, finished_job: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("artifacts")
    for artifact in running.client.jobs.artifacts(finished_job):
        running.client.jobs.download(finished_job, artifact, folder / artifact.name)
    return folder


def test_result_is_within_the_budget_and_close_to_it(running: Service, finished_job: str) -> None:
    result = running.client.jobs.get(finished_job).result
    assert result is not None
    assert 0.95 * 0.6 <= result["ratio"] <= 0.6
    assert result["ratio_high"] <= 0.6
    assert result["within_budget"]
    assert result["accuracy"] >= result["dense_accuracy"] - 0.1


def test_every_measurement_is_kept_with_its_raw_samples(
    running: Service, finished_job: str
) -> None:
    rows = running.rows(
        "SELECT skeleton_digest, raw FROM measurements WHERE job_id = ?", finished_job
    )
    assert len({digest for digest, _ in rows}) >= 15
    for _, raw in rows:
        replicates = json.loads(raw)["replicates"]
        assert len(replicates) >= 3
        assert all(rounds["candidate_ns"] and rounds["reference_ns"] for rounds in replicates)


def test_tree_has_levels_that_follow_from_each_other(running: Service, finished_job: str) -> None:
    tree = running.client.jobs.tree(finished_job).items
    nodes = {node.digest: node for node in tree}
    assert any(node.kept and node.level > 0 for node in tree)
    assert all(node.parent is None or node.parent in nodes for node in tree)


def test_events_are_numbered_without_gaps_and_tell_every_state(
    running: Service, finished_job: str
) -> None:
    events = running.client.jobs.events(finished_job)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.data["level"] for event in events if event.kind == "level"][-1] == 2
    states = [event.data["to"] for event in events if event.kind == "state"]
    assert states == [
        "queued", "preparing", "searching", "finetuning", "verifying", "succeeded"
    ]  # fmt: skip


def test_all_files_are_there(files: Path) -> None:
    assert {path.name for path in files.iterdir()} == FILES


def test_pruned_model_loads_and_equals_its_onnx(files: Path) -> None:
    model = load_pruned(tiny_resnet(), files / "plan.json", files / "model.safetensors").eval()
    pixels, _ = images(1, seed=5)
    inputs = torch.from_numpy(pixels)[:, None].float() / 255
    session = onnxruntime.InferenceSession(files / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(inputs).numpy(), rtol=1e-3, atol=1e-4)


FRESH_PROCESS = """
import json, sys
import safetensors.torch
import torch
from tests.e2e_tests.nets import tiny_resnet as build_your_network
{loading}
assert "search" not in sys.modules
model.eval()
logits = model(safetensors.torch.load_file("inputs.safetensors")["x"])
safetensors.torch.save_file({{"y": logits.detach()}}, "logits.safetensors")
"""


def test_the_five_lines_of_the_report_load_the_model(files: Path, tmp_path: Path) -> None:
    for name in ("plan.json", "model.safetensors"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    inputs = torch.rand(3, 1, 12, 12)
    safetensors.torch.save_file({"x": inputs}, tmp_path / "inputs.safetensors")
    loading = json.loads((files / "report.json").read_text())["loading"]
    script = FRESH_PROCESS.format(loading=loading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    logits = safetensors.torch.load_file(tmp_path / "logits.safetensors")["y"]
    model = load_pruned(tiny_resnet(), files / "plan.json", files / "model.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(logits, model(inputs))


def test_accuracy_is_that_of_the_onnx_file(
    running: Service, finished_job: str, files: Path
) -> None:
    pixels, labels = images(400, seed=2)
    session = onnxruntime.InferenceSession(files / "model.onnx")
    name = session.get_inputs()[0].name
    right = 0
    for pixel, label in zip(pixels, labels, strict=True):
        (logits,) = session.run(None, {name: pixel[None, None].astype(np.float32) / 255})
        right += int(logits.argmax() == label)
    result = running.client.jobs.get(finished_job).result
    assert result is not None
    assert result["accuracy"] == pytest.approx(right / 400, abs=0.006)


def test_report_page_names_the_job_and_escapes(files: Path, finished_job: str) -> None:
    page = (files / "report.html").read_text()
    assert finished_job in page
    assert "<svg" in page
    assert "<script" not in page
