"""Fine-tunes a finalist, or a node between two levels, in slices; any worker goes on from the
checkpoint of the last one.

A slice leaves the checkpoint that it began with and the one that it wrote: a worker that is killed
before the new one counts goes on from the other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from jobs.artifacts import job_file_name
from search.candidates import candidate, quantized, recalibrated
from search.criteria import score_channels
from search.evaluation import judge, loss_with_error
from search.finetuning import Finetune, FinetuneConfig, Trained, amp_here
from search.lineage import regrown
from search.plan import Plan
from search.quantization import QuantizedModel
from search.tensors import load_tensors, stored_tensors
from search.time_limit import steps_in_time
from workers.phases import precision
from workers.phases.facts import prepared_result
from workers.results import Finetuned, Training, finite
from workers.snapshot import Snapshot
from workers.spare_cores import LOOK_S, lent
from workers.starts import learnt, scores_name
from workers.tasks.metrics import Batches, batches, origin_of
from workers.time_limit import limit_left_s
from workers.work import Again, Done, Work

FIRST_SLICE_S, SLICE_S = 2.0, 12.0  # each is twice as long as the one before
SUFFIX = ".safetensors"


def finetune(work: Work, *, slice_s: float | None = None) -> Done | Again:
    """Runs one slice, of a finalist that is not taken as it is; after the last one, stores the
    weights and the validation metrics."""
    student = _student(work)
    steps = work.snapshot.spec.finetune.steps - learnt(work.payload.get("start"))
    if steps <= 0 or work.payload.get("as_it_is"):
        _recalibrate(work, student)
        return _finished(work, student, rounded(work, student.eval()), 0)
    began = work.payload.get("began") or work.context.clock().isoformat()
    run = _opened(work, student, steps)
    run.end_at(int(work.payload.get("comes_to", steps)))
    trained = run_slice(work, run, slice_s or next_slice_s(work.payload))
    if run.done or work.is_to_stop():
        return _finished(work, student, run.student, run.step)
    now = work.context.clock()
    spent_s = (now - datetime.fromisoformat(began)).total_seconds()
    comes_to = steps_in_time(run.step, steps, spent_s, limit_left_s(work.snapshot, now))
    return _goes_on(work, run, trained, began=began, comes_to=comes_to)


def tune(work: Work, *, slice_s: float | None = None) -> Done | Again:
    """Runs one slice of the few steps between two levels; after the last one, stores the weights,
    the scores of the units with them, and the calibration loss."""
    student = _student(work)
    run = _opened(work, student, int(work.payload["steps"]))
    trained = run_slice(work, run, slice_s or next_slice_s(work.payload))
    if not (run.done or work.is_to_stop()):
        return _goes_on(work, run, trained)
    weights = _weights(work, student, run.student)
    location, graph = _file(work, "tuned.safetensors"), work.graph
    work.context.store.put(location, save(weights))
    full = regrown(graph.model, graph, Plan.from_document(work.payload["plan"]), weights)
    search, calibration = work.snapshot.spec.search, _calibration(work)
    scores = score_channels(full, graph, search.criterion, calibration, blocks=search.blocks)
    work.context.store.put(scores_name(location), save(scores))
    loss, error = loss_with_error(run.student, calibration)
    result = {"checkpoint": location, "loss": finite(loss), "standard_error": finite(error)}
    return Done(result, spent=_checkpoints(work))


def _student(work: Work) -> nn.Module:
    """The candidate as it is cut from what it starts from."""
    origin = origin_of(work)
    full = work.graph.model if origin is None else origin.full
    return candidate(full, work.graph, Plan.from_document(work.payload["plan"]))


def _goes_on(work: Work, run: Finetune, trained: Trained, **known: Any) -> Again:
    location = _file(work, f"{run.step}{SUFFIX}")
    work.context.store.put(location, save(run.state_dict()))
    went = Training(loss=trained.loss, accuracy=trained.accuracy)
    payload = {
        **work.payload, **known,
        "step": run.step, "checkpoint": location, "training": went.document(),
    }  # fmt: skip
    return Again(payload, spent=_checkpoints(work, below=int(work.payload["step"])))


def run_slice(work: Work, run: Finetune, slice_s: float) -> Trained:
    """Trains so long, or until the job is to stop, on the cores that are to spare meanwhile; says
    how that went. Who stops in the search still gets the first `LOOK_S` of training."""
    ends_s, trained, is_over = time.monotonic() + slice_s, Trained(), run.done
    while not is_over and (left_s := ends_s - time.monotonic()) > 0:
        with lent(work.context):
            run.run(time_limit_s=min(left_s, LOOK_S))
        trained = trained.joined(run.trained)
        is_over = run.done or work.is_to_stop()
    return trained


def next_slice_s(payload: Mapping[str, Any]) -> float:
    """Short at first: a user soon sees how the training goes, and may stop it."""
    doublings = min(int(payload.get("slices", 0)), 8)
    return min(FIRST_SLICE_S * 2.0**doublings, SLICE_S)


def finetune_config(snapshot: Snapshot) -> FinetuneConfig:
    """The settings of the job's fine-tuning on this machine."""
    spec = snapshot.spec
    settings = spec.finetune.model_dump()
    amp, flip = amp_here(settings.pop("amp")), settings.pop("flip")
    if flip == "auto":
        flip = prepared_result(snapshot).mirrors
    return FinetuneConfig(seed=spec.search.seed, amp=amp, flip=flip, **settings)


def _opened(work: Work, student: nn.Module, steps: int) -> Finetune:
    checkpoint = work.payload["checkpoint"]
    config = replace(finetune_config(work.snapshot), steps=steps)
    if checkpoint is None:
        _recalibrate(work, student)
    student = rounded(work, student.eval())  # it trains as it will be used
    images, labels = work.library.fit_tensors(work.snapshot)
    last = work.data.images.feed.channels_last
    run = Finetune(student, work.graph.model, images, labels, config, channels_last=last)
    if checkpoint is not None:
        run.load_state_dict(load(work.context.store.get(checkpoint)))
    return run


def _finished(work: Work, student: nn.Module, trained: nn.Module, steps: int) -> Done:
    """Stores the weights of the student, which is float; `trained` is it, or what rounds it. Those
    of before the training where that made them worse."""
    location, data = _file(work, "weights.safetensors"), work.data
    validation = batches(data.images, data.splits.validation)
    found, is_worse = judge(trained, validation), False
    if steps > 0:
        untrained = _student(work)
        _recalibrate(work, untrained)
        before = rounded(work, untrained.eval())
        at_first = judge(before, validation)
        if is_worse := found.is_worse_than(at_first):
            student, trained, found = untrained, before, at_first
    work.context.store.put(location, save(_weights(work, student, trained)))
    return Done(
        Finetuned(
            weights=location,
            steps=steps,
            validation_loss=found.loss,
            validation_accuracy=found.accuracy,
            untrained=is_worse,
        ).document(),
        spent=_checkpoints(work),
    )


def _weights(work: Work, student: nn.Module, trained: nn.Module) -> dict[str, Tensor]:
    """Those of the student, which is float; `trained` is it, or what rounds it."""
    if isinstance(trained, QuantizedModel):
        trained.observe(calibration_inputs(work))
        load_tensors(student, trained.float_tensors(), strict=False)
    return stored_tensors(student)


def rounded(work: Work, student: nn.Module) -> nn.Module:
    """The student with the layers in int8 that its plan names; itself where there are none."""
    plan, form = Plan.from_document(work.payload["plan"]), precision.format_of(work.snapshot)
    if form is None or not plan.precision:
        return student
    graph = work.graph
    return quantized(graph.model, graph, plan, student, calibration_inputs(work), form)


def calibration_inputs(work: Work) -> list[Tensor]:
    """The calibration images in batches."""
    return [images for images, _ in _calibration(work)]


def _calibration(work: Work) -> Batches:
    data = work.data
    return batches(data.images, data.splits.calibration)


def _checkpoints(work: Work, below: int | None = None) -> tuple[str, ...]:
    """The checkpoints of this finalist, all or those of fewer steps than `below`.

    A worker that lost its lease may come late: it finds those of its successors, which are newer,
    and leaves them alone.
    """
    names = work.context.store.folders(_file(work, "").rstrip("/"))
    steps = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]
    return tuple(
        _file(work, f"{step}{SUFFIX}")
        for step in steps
        if step.isdigit() and (below is None or int(step) < below)
    )


def _recalibrate(work: Work, student: nn.Module) -> None:
    graph, plan = work.graph, Plan.from_document(work.payload["plan"])
    recalibrated(student, graph.model, graph, plan, calibration_inputs(work), origin_of(work))


def _file(work: Work, name: str) -> str:
    return job_file_name(work.snapshot.job.id, f"work/{work.payload['digest']}/{name}")
