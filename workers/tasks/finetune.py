"""Fine-tunes a finalist in slices; any worker goes on from the checkpoint of the last one.

A slice leaves the checkpoint that it began with and the one that it wrote: a worker that is killed
before the new one counts goes on from the other.
"""

from __future__ import annotations

from safetensors.torch import load, save
from torch import nn

from jobs.artifacts import job_file_name
from jobs.spec import JobSpec
from search.candidates import candidate, recalibrated
from search.evaluation import accuracy, cross_entropy_loss
from search.finetuning import Finetune, FinetuneConfig, precision_here
from search.plan import Plan
from search.tensors import stored_tensors
from workers.results import Finetuned, Training
from workers.tasks.metrics import batches
from workers.work import Again, Done, Work

SLICE_S = 12.0
SUFFIX = ".safetensors"


def finetune(work: Work, *, slice_s: float = SLICE_S) -> Done | Again:
    """Runs one slice; after the last one, stores the weights and the validation metrics."""
    plan = Plan.from_document(work.payload["plan"])
    student = candidate(work.graph.model, work.graph, plan)
    if work.snapshot.spec.finetune.steps == 0:
        _recalibrate(work, student)
        return _finished(work, student, 0)
    run = _opened(work, student)
    run.run(time_limit_s=slice_s)
    if run.done or work.snapshot.job.stop_requested:
        return _finished(work, student, run.step)
    location = _file(work, f"{run.step}{SUFFIX}")
    work.context.store.put(location, save(run.state_dict()))
    went = Training(loss=run.trained.loss, accuracy=run.trained.accuracy)
    payload = {
        **work.payload, "step": run.step, "checkpoint": location, "training": went.document()
    }  # fmt: skip
    return Again(payload, spent=_checkpoints(work, below=int(work.payload["step"])))


def finetune_config(spec: JobSpec) -> FinetuneConfig:
    """The settings of the job's fine-tuning on this machine."""
    settings = spec.finetune.model_dump()
    precision = precision_here(settings.pop("precision"))
    return FinetuneConfig(seed=spec.search.seed, precision=precision, **settings)


def _opened(work: Work, student: nn.Module) -> Finetune:
    spec = work.snapshot.spec
    config = finetune_config(spec)
    images, labels = work.library.fit_tensors(work.snapshot)
    last = work.data.images.feed.channels_last
    run = Finetune(student, work.graph.model, images, labels, config, channels_last=last)
    checkpoint = work.payload["checkpoint"]
    if checkpoint is None:
        _recalibrate(work, student)
    else:
        run.load_state_dict(load(work.context.store.get(checkpoint)))
    return run


def _finished(work: Work, student: nn.Module, steps: int) -> Done:
    location = _file(work, "weights.safetensors")
    work.context.store.put(location, save(stored_tensors(student)))
    data = work.data
    validation = batches(data.images, data.splits.validation)
    return Done(
        Finetuned(
            weights=location,
            steps=steps,
            validation_loss=cross_entropy_loss(student, validation),
            validation_accuracy=accuracy(student, validation),
        ).document(),
        spent=_checkpoints(work),
    )


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
    data, graph = work.data, work.graph
    inputs = [images for images, _ in batches(data.images, data.splits.calibration)]
    plan = Plan.from_document(work.payload["plan"])
    recalibrated(student, graph.model, graph, plan, inputs)


def _file(work: Work, name: str) -> str:
    return job_file_name(work.snapshot.job.id, f"work/{work.payload['digest']}/{name}")
