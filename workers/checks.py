"""Judges an upload once: ready with what was found in it, or rejected with a problem."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import ValidationError

from jobs.artifacts import weights_name
from jobs.repository import datasets, jobs, models
from jobs.spec import DatasetSpec, ModelSpec
from jobs.states import InputState, JobState
from workers.context import Context, Unit
from workers.inspection import Inspection, inspect_in_child
from workers.library import Library, dataset_source
from workers.loaders.datasets import Source
from workers.loaders.errors import DatasetError, LoadError
from workers.retrying import is_passing, words

INSPECTION_TIME_LIMIT_S = 300.0
PREVIEW_SHAPE = (3, 32, 32)  # image files may differ in size: a job scales them to its model
log = logging.getLogger(__name__)


def check_model(context: Context, _library: Library, model_id: str) -> None:
    """Builds, loads and traces the model in a child process and keeps the verdict."""
    with context.read() as session:
        model = models.find(session, model_id)
    if model is None or model.state != InputState.CHECKING:
        return
    try:
        spec = ModelSpec.model_validate(model.spec)
    except ValidationError as error:
        with context.unit() as unit:
            models.reject(unit.session, model_id, LoadError(words(error)).problem())
            _wake_waiting_jobs(unit, model_id)
        return
    answer = inspect_in_child(
        Inspection(
            spec=spec,
            weights=context.store.local_path(weights_name(model_id)),
            allow=sorted(context.settings.allow),
            time_limit_s=INSPECTION_TIME_LIMIT_S,
        )
    )
    with context.unit() as unit:
        if "report" in answer:
            models.accept(unit.session, model_id, answer["report"])
        else:
            models.reject(unit.session, model_id, answer["problem"])
        _wake_waiting_jobs(unit, model_id)
    log.info("model %s: %s", model_id, "ready" if "report" in answer else "rejected")


def check_dataset(context: Context, _library: Library, dataset_id: str) -> None:
    """Reads the training split and keeps the verdict; the test images stay unread."""
    with context.read() as session:
        dataset = datasets.find(session, dataset_id)
    if dataset is None or dataset.state != InputState.CHECKING:
        return
    try:
        spec = DatasetSpec.model_validate(dataset.spec)
        preview = PREVIEW_SHAPE if spec.format == "image_folder" else None
        source = dataset_source(context, dataset_id, spec, image_shape=preview)
        info = describe(source)
    except Exception as error:
        if is_passing(error):
            raise
        refused = error if isinstance(error, LoadError) else unreadable(error)
        with context.unit() as unit:
            datasets.reject(unit.session, dataset_id, refused.problem())
            _wake_waiting_jobs(unit, dataset_id)
        return
    with context.unit() as unit:
        datasets.accept(unit.session, dataset_id, info)
        _wake_waiting_jobs(unit, dataset_id)


def unreadable(error: Exception) -> DatasetError:
    """A reader's own error, which no check had foreseen, as a problem of the data set."""
    return DatasetError(f"the data set cannot be read: {type(error).__name__}: {error}")


def describe(source: Source) -> dict[str, Any]:
    """What the page shows of a data set."""
    source.require("test")
    train = source.read("train")
    return {
        "train_images": len(train),
        "image_shape": None if source.image_shape else list(train.images.shape[1:]),
        "classes": int(train.labels.max()) + 1,
    }


def _wake_waiting_jobs(unit: Unit, input_id: str) -> None:
    for job in jobs.live(unit.session):
        if job.state == JobState.QUEUED and input_id in {job.model_id, job.dataset_id}:
            unit.send("advance", job.id)
