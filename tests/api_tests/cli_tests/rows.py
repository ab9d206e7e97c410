"""Rows for tests: a checked model and data set, and a job moved to the state a test is about."""

from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from jobs.repository import datasets, jobs, models
from jobs.spec import DatasetSpec, JobSpec, ModelSpec
from jobs.states import JobState
from jobs.status import transition

RESULT = {
    "budget_ratio": 0.6,
    "ratio": 0.592,
    "ratio_low": 0.588,
    "ratio_high": 0.596,
    "dense_latency_ms": 1.25,
    "latency_ms": 0.74,
    "dense_accuracy": 0.9331,
    "accuracy": 0.9302,
    "dense_bytes": 1_100_000,
    "bytes": 420_000,
    "test_images": 10_000,
    "device": "local",
    "runtime": "onnxruntime",
    "measured": 42,
    "measurements": {"measured": 42, "reused": 7, "from_jobs": ["job_1"]},
    "devices": [
        {"id": "dev_1", "name": "local", "measured": 40, "note": None},
        {"id": "dev_2", "name": "shelf", "measured": 2, "note": "set aside: it drifted"},
    ],
    "levels": 5,
    "unpruned": False,
}
PROGRESS = {
    "phase": "searching",
    "level": 2,
    "levels": 5,
    "measured": 31,
    "reused": 7,
    "scored": 12,
    "best": {"ratio": 0.71, "loss": 0.3},
    "fraction": 0.4,
    "seconds_left": 200.0,
}
WAYS = {
    JobState.SUCCEEDED: [JobState.PREPARING, JobState.SUCCEEDED],
    JobState.INFEASIBLE: [JobState.PREPARING, JobState.SEARCHING, JobState.INFEASIBLE],
    JobState.FAILED: [JobState.FAILED],
    JobState.CANCELLED: [JobState.CANCELLED],
    JobState.QUEUED: [],
}


def add_inputs(sessions: sessionmaker[Session]) -> None:
    """A model `net` and a data set `data`, both ready."""
    with sessions.begin() as session:
        spec = ModelSpec(
            name="net", architecture="python:examples.resnet20:resnet20", input_shape=(1, 28, 28)
        )
        model = models.create(session, spec, weights_digest="0" * 64)
        dataset = datasets.create(session, DatasetSpec(name="data", format="idx", path="/data"))
        if model is None or dataset is None:
            raise ValueError("the names must be free")
        groups = [{"name": "stem", "width": 16, "status": "frozen", "reason": "no rule for sort"}]
        report = {"parameters": 270_000, "prunable_parameter_share": 0.98, "groups": groups}
        models.accept(session, model.id, report)
        datasets.accept(session, dataset.id, {"images": 60_000})


def add_job(
    sessions: sessionmaker[Session],
    state: JobState,
    *,
    result: dict[str, Any] | None = None,
    problem: dict[str, Any] | None = None,
    progress: dict[str, Any] | None = None,
) -> str:
    """A job in the given state; its id."""
    add_inputs(sessions)
    with sessions.begin() as session:
        spec = JobSpec.model_validate(
            {"name": "first", "model": "net", "dataset": "data", "budget": {"ratio": 0.6}}
        )
        model, dataset = models.find(session, "net"), datasets.find(session, "data")
        if model is None or dataset is None:
            raise ValueError("the inputs must be there")
        job = jobs.create(session, spec, model_id=model.id, dataset_id=dataset.id)
        before = JobState.QUEUED
        for after in WAYS[state]:
            transition(session, job.id, before, after, 1, result=result, problem=problem)
            before = after
        if progress is not None:
            jobs.save_progress(session, job.id, progress)
        return job.id
