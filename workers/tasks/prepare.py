"""Traces the network, scores its channels, stores the dense skeleton and the dense metrics."""

from __future__ import annotations

import time

from safetensors.torch import save
from torch import nn

from jobs.artifacts import job_file_name
from search.criteria import score_channels
from search.errors import ConfigError
from search.graph import PruningGraph
from workers.loaders.errors import LoadError
from workers.results import Prepared
from workers.tasks.metrics import Batches, answers, batches, calibration_loss
from workers.work import Done, Work


def prepare(work: Work) -> Done:
    """Everything the phases need before the first candidate.

    Raises:
        LoadError: The images do not fit the network, nothing of it can be pruned, or the
            constraints exclude each other.
    """
    graph, data, spec = _graph(work), work.data, work.snapshot.spec
    _check_fit(work)
    scores = score_channels(
        graph.model,
        graph,
        spec.search.criterion,
        batches(data.images, data.splits.calibration),
        blocks=spec.search.blocks,
    )
    if not scores:
        where = "see the model's graph report" + (
            "" if graph.complete else ", which is unfinished"
        )
        raise LoadError(f"no group of this network can be pruned; {where}")
    location = job_file_name(work.snapshot.job.id, "work/scores.safetensors")
    work.context.store.put(location, save(scores))
    plan, classes = graph.dense_plan(), graph.model(graph.example_inputs[0]).shape[1]
    validation = batches(data.images, data.splits.validation)
    began_s = time.monotonic()
    said = answers(graph.model, validation)
    seconds_per_image = (time.monotonic() - began_s) / len(data.splits.validation)
    plain, mirrored = mirrored_accuracy(
        graph.model,
        batches(data.images, data.splits.calibration),
        channels_last=data.images.feed.channels_last,
    )
    blob = work.library.skeleton(work.snapshot.model, plan, batch_size=spec.target.batch_size)
    return Done(
        Prepared(
            groups=sorted(scores),
            dense_digest=plan.digest,
            dense_skeleton=blob,
            scores=location,
            calibration_loss=calibration_loss(work, plan)[0],
            validation_loss=said.loss,
            validation_accuracy=said.accuracy,
            chance=said.chance(classes),
            calibration_accuracy=plain,
            mirrored_accuracy=mirrored,
            seconds_per_image=seconds_per_image,
        ).document()
    )


def mirrored_accuracy(
    model: nn.Module, given: Batches, *, channels_last: bool
) -> tuple[float, float]:
    """The accuracy on the images, and on the same mirrored left to right."""
    width = 2 if channels_last else 3
    mirrored = [(images.flip(width), labels) for images, labels in given]
    return answers(model, given).accuracy, answers(model, mirrored).accuracy


def _graph(work: Work) -> PruningGraph:
    try:
        return work.graph
    except ConfigError as error:
        raise LoadError(f"the job's constraints cannot be kept: {error}") from None


def _check_fit(work: Work) -> None:
    images, (example,) = work.data.images, work.graph.example_inputs
    given, wanted = list(images.shape), list(example.shape[1:])
    if given != wanted:
        layout = f" ({images.feed.layout})" if images.feed.channels_last else ""
        raise LoadError(f"images must have shape {wanted}{layout} for this model, but got {given}")
    classes = work.graph.model(example).shape[1]
    highest = int(images.labels.max())
    if highest >= classes:
        raise LoadError(f"labels must be in 0..{classes - 1} for this model, but got {highest}")
