"""A whole job, played without broker and device: it reaches succeeded with artifacts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load

from jobs.artifacts import job_file_name
from jobs.repository import artifacts, candidates, events
from jobs.states import RequestState, TaskState
from search.onnx_out.checking import worst_difference
from search.sensitivity import RATIOS, small_rise
from tests.e2e_tests.nets import SHAPE, tiny_resnet
from tests.workers_tests.workshop import Finished, Workshop
from workers.phases.facts import group_rise, prepared_result

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
def job_id(finished: Finished) -> str:
    return finished.job_id


def test_a_group_is_asked_further_only_where_the_largest_ratio_costs_something(
    workshop: Workshop, finished: Finished
) -> None:
    snapshot = workshop.snapshot(finished.job_id)
    groups = prepared_result(snapshot).groups
    small = small_rise(snapshot.spec.search.tolerance, len(groups))
    for group in groups:
        largest = group_rise(snapshot, group, RATIOS[-1])
        assert largest is not None
        asked = [group_rise(snapshot, group, each) is not None for each in RATIOS[:-1]]
        assert asked == [largest > small] * len(asked)


def test_test_images_are_not_read_before_the_choice(finished: Finished) -> None:
    assert finished.state_before == "verifying"
    assert "must not be read before the choice" in finished.refusal


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


def test_levels_too_fine_for_the_device_are_said_everywhere(
    workshop: Workshop, job_id: str
) -> None:
    with workshop.bench.context.read() as session:
        log = events.after(session, job_id, 0)
    (told,) = [event.data for event in log if event.kind == "levels"]
    assert (told["most_levels"], told["resolved"]) == (1, 0.3)
    assert (workshop.job(job_id).progress or {})["advice"] == told["text"]
    store = workshop.bench.context.store
    assert json.loads(store.get(job_file_name(job_id, "report.json")))["advice"] == told["text"]
    assert told["text"] in store.get(job_file_name(job_id, "report.html")).decode()


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


def test_the_file_equals_its_model_at_every_batch_and_another_model_not(
    workshop: Workshop, job_id: str
) -> None:
    dense = workshop.bench.context.store.get(job_file_name(job_id, "dense.onnx"))
    model = workshop.library.graph(workshop.snapshot(job_id).model).model

    def samples(count: int) -> tuple[torch.Tensor, ...]:
        return (torch.rand(count, *SHAPE),)

    assert worst_difference(model, dense, samples, (1, 2, 7)) < 1e-3
    assert worst_difference(tiny_resnet(), dense, samples, (1, 2, 7)) > 1e-2


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
    layers = report["robustness"]["layers"]
    assert {"wide", "inner"} <= {row["layer"] for row in layers}
    assert all(row["rise"] is not None for row in layers)


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
    assert progress["seconds_left_range"] == [0.0, 0.0]
    assert progress["planned"] >= progress["measured"] > 0
    assert progress["sensitivities"]["done"] == progress["sensitivities"]["of"] > 0
    assert progress["finetuning"]["steps"] == 3
    assert 0 < progress["budget_ratio"] < 1
    assert progress["dense_latency_ms"] > 0


def test_everybody_counts_the_same_candidates(workshop: Workshop, job_id: str) -> None:
    job = workshop.job(job_id)
    with workshop.bench.context.read() as session:
        tree = candidates.tree(session, job_id)
    report = json.loads(workshop.bench.context.store.get(job_file_name(job_id, "report.json")))
    measured = [row for row in tree if row.ratio is not None and row.origin != "dense"]
    told = {
        "progress": (job.progress or {})["measured"],
        "result": (job.result or {})["measured"],
        "measurements": (job.result or {})["measurements"]["measured"],
        "report": report["result"]["measured"],
    }
    assert told == dict.fromkeys(told, len(measured))


def test_plans_measured_on_the_device_for_an_earlier_job_are_not_asked_again(
    workshop: Workshop, finished: Finished
) -> None:
    second = workshop.submit("gated")
    workshop.play(
        second,
        device_id=finished.device_id,
        until=lambda: bool(workshop.tasks(second, "finetune")),
    )
    assert workshop.requests(second, "screening") == []
    assert workshop.requests(second, "strict") != []
    snapshot = workshop.snapshot(second)
    chosen = (snapshot.search_state or {})["chosen"]
    result = workshop.job(finished.job_id).result or {}
    assert chosen[0]["digest"] == result["plan_digest"]
    assert set(snapshot.reused.values()) == {finished.job_id}
    assert (snapshot.job.progress or {})["reused"] == len(snapshot.reused)
    assert result["measurements"] == {
        "measured": result["measured"], "reused": 0, "from_jobs": []
    }  # fmt: skip
    (device,) = result["devices"]
    assert (device["id"], device["note"]) == (finished.device_id, None)
