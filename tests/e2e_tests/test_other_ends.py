"""Jobs that end in another way than with a pruned model, or that wait."""

from __future__ import annotations

import time

import pytest

from api.client import ApiProblem
from tests.e2e_tests.service import Service, job_spec


def test_budget_above_the_dense_latency_succeeds_unpruned(running: Service) -> None:
    job = running.client.jobs.submit(job_spec(budget={"ratio": 1.2}))
    ended = running.wait(job.id)
    assert ended.state == "succeeded", ended.problem
    assert ended.result is not None
    assert ended.result["unpruned"]
    assert ended.result["accuracy"] == ended.result["dense_accuracy"]
    names = {artifact.name for artifact in running.client.jobs.artifacts(job.id)}
    assert {"model.onnx", "plan.json", "model.safetensors", "report.html"} <= names


def test_target_that_no_device_offers_is_refused_with_what_there_is(running: Service) -> None:
    with pytest.raises(ApiProblem, match="replay") as refused:
        running.client.jobs.submit(job_spec(target={"runtime": "onnxruntime"}))
    assert refused.value.document["status"] == 422


def test_stopped_job_finishes_with_the_best_so_far(running: Service) -> None:
    search = job_spec()["search"] | {"levels": 1}
    finetune = {"steps": 100_000, "batch_size": 64}
    spec = job_spec(budget={"ratio": 0.5}, search=search, finetune=finetune)
    job = running.client.jobs.submit(spec)
    running.wait(job.id, lambda job: job.state == "finetuning")
    time.sleep(1.0)
    running.client.jobs.stop(job.id)
    ended = running.wait(job.id)
    assert ended.state == "succeeded", ended.problem
    assert ended.result is not None
    assert ended.result["ratio"] <= 0.5
