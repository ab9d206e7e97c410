"""A whole job, played without broker and device: it reaches succeeded with artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from jobs.artifacts import job_file_name
from jobs.repository import artifacts, candidates, events
from jobs.states import RequestState, TaskState
from tests.e2e_tests.nets import tiny_resnet
from tests.workers_tests.workshop import Workshop
from workers.library import job_source
from workers.loaders.errors import DatasetError

FILES = {
    "dense.onnx",
    "model.onnx",
    "model.safetensors",
    "plan.json",
    "report.html",
    "report.json",
}


@pytest.fixture(scope="module")
def device_id(workshop: Workshop) -> str:
    return workshop.device()


@pytest.fixture(scope="module")
def chosen_id(
    workshop: Workshop, device_id: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A job that has chosen, and the file without which its test images cannot be read."""
    gate: Path = tmp_path_factory.mktemp("gate") / "open"
    with workshop.bench.write() as session:
        workshop.add_dataset(session, "gated", gate=str(gate))
    job_id = workshop.submit("gated", name="whole", finetune={"steps": 3, "batch_size": 16})
    job = workshop.play(
        job_id, device_id=device_id, until=lambda: bool(workshop.tasks(job_id, "finish"))
    )
    assert job.state == "verifying", job.problem
    assert workshop.requests(job_id, "final")
    return job_id, gate


@pytest.fixture(scope="module")
def job_id(workshop: Workshop, device_id: str, chosen_id: tuple[str, Path]) -> str:
    job_id, gate = chosen_id
    gate.touch()
    job = workshop.play(job_id, device_id=device_id)
    assert job.state == "succeeded", job.problem
    return job_id


def test_test_images_are_not_read_before_the_choice(
    workshop: Workshop, chosen_id: tuple[str, Path]
) -> None:
    job_id, gate = chosen_id
    assert not gate.exists()
    snapshot = workshop.snapshot(job_id)
    with pytest.raises(DatasetError, match="must not be read before the choice"):
        job_source(workshop.bench.context, snapshot.dataset, snapshot.model).read("test")


def test_result_meets_the_budget_closely(workshop: Workshop, job_id: str) -> None:
    result = workshop.job(job_id).result
    assert result is not None
    assert 0.9 * 0.6 <= result["ratio"] <= 0.6
    assert result["within_budget"]
    assert not result["unpruned"]
    assert result["bytes"] < result["dense_bytes"]


def test_every_state_was_passed_once_and_in_order(workshop: Workshop, job_id: str) -> None:
    with workshop.bench.context.read() as session:
        log = events.after(session, job_id, 0)
    assert [event.data["to"] for event in log if event.kind == "state"] == [
        "queued", "preparing", "searching", "finetuning", "verifying", "succeeded"
    ]  # fmt: skip
    assert {"dense", "level", "finalists"} <= {event.kind for event in log}


def test_all_files_are_recorded_and_stored(workshop: Workshop, job_id: str) -> None:
    with workshop.bench.context.read() as session:
        rows = artifacts.for_job(session, job_id)
    assert {row.name for row in rows} == FILES
    for row in rows:
        assert row.location == job_file_name(job_id, row.name)
        assert len(workshop.bench.context.store.get(row.location, sha256=row.sha256)) == row.size


def test_dense_file_holds_the_true_weights(workshop: Workshop, job_id: str) -> None:
    store = workshop.bench.context.store
    prepared = workshop.snapshot(job_id).result("prepare")
    assert prepared is not None
    dense = store.get(job_file_name(job_id, "dense.onnx"))
    assert len(dense) > 2 * prepared["dense_skeleton"]["size"]


def test_weights_have_the_plan_s_widths(workshop: Workshop, job_id: str) -> None:
    store = workshop.bench.context.store
    weights = load(store.get(job_file_name(job_id, "model.safetensors")))
    report = json.loads(store.get(job_file_name(job_id, "report.json")))
    assert weights["inner.weight"].shape[0] == report["widths"]["inner"]
    assert weights["wide.weight"].shape[0] == report["widths"]["wide"]
    assert sum(map(torch.numel, weights.values())) < sum(
        map(torch.numel, tiny_resnet().state_dict().values())
    )


def test_report_has_the_result_and_the_tree(workshop: Workshop, job_id: str) -> None:
    report = json.loads(workshop.bench.context.store.get(job_file_name(job_id, "report.json")))
    result = workshop.job(job_id).result
    assert result is not None
    assert report["result"]["ratio"] == result["ratio"]
    assert report["job"]["name"] == "whole"
    assert report["result"]["plan_digest"] in {node["digest"] for node in report["tree"]}
    assert report["validation"]["steps"] == 3
    assert report["onnx_difference"] < 1e-3


def test_tree_is_kept_with_skeletons(workshop: Workshop, job_id: str) -> None:
    with workshop.bench.context.read() as session:
        tree = candidates.tree(session, job_id)
    assert max(node.level for node in tree) == 2
    assert all(node.skeleton_digest for node in tree)
    assert any(node.kept for node in tree)


def test_nothing_is_left_open(workshop: Workshop, job_id: str) -> None:
    snapshot = workshop.snapshot(job_id)
    assert {task.state for task in snapshot.tasks.values()} == {TaskState.DONE}
    assert {each.state for each in snapshot.requests.values()} == {RequestState.DONE}


def test_progress_ends_at_one(workshop: Workshop, job_id: str) -> None:
    progress = workshop.job(job_id).progress
    assert progress is not None
    assert progress["phase"] == "done"
    assert progress["fraction"] == 1.0
    assert progress["best"] is not None


def test_plans_measured_on_the_device_for_an_earlier_job_are_not_asked_again(
    workshop: Workshop, job_id: str, device_id: str
) -> None:
    second = workshop.submit("gated")
    workshop.play(
        second, device_id=device_id, until=lambda: workshop.job(second).state == "finetuning"
    )
    assert workshop.requests(second, "screening") == []
    assert workshop.requests(second, "strict") != []
    chosen = workshop.snapshot(second).search_state or {}
    result = workshop.job(job_id).result or {}
    assert chosen["chosen"][0]["digest"] == result["plan_digest"]
