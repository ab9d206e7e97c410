"""Turns a model into files a user can run: ONNX, checked against torch, weights and plan."""

from __future__ import annotations

import hashlib
import json

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from jobs.artifacts import job_file_name, weights_name
from jobs.spec import ModelSpec
from search.candidates import candidate
from search.loading import plan_document
from search.onnx_out import Delivered, deliver, deliver_quantized, exact_file, file_accuracy
from search.plan import Plan
from search.quantization import QuantizedModel
from search.tensors import load_tensors, stored_tensors
from workers.library import stored_blob
from workers.phases.facts import finetune_key
from workers.results import Finetuned, Packaged
from workers.tasks.finetune import rounded
from workers.tasks.metrics import batches
from workers.work import Done, Work


def package(work: Work) -> Done:
    """A fine-tuned finalist as model.onnx, model.safetensors and plan.json."""
    found = work.snapshot.result(finetune_key(work.payload["digest"]))
    finetuned = Finetuned.model_validate(found)
    plan = Plan.from_document(work.payload["plan"])
    model = candidate(work.graph.model, work.graph, plan)
    load_tensors(model, load(work.context.store.get(finetuned.weights)), strict=False)
    judged = rounded(work, model.eval())
    ranges = judged if isinstance(judged, QuantizedModel) else None
    files = {"model.safetensors": finetuned.weights, "plan.json": _put_plan(work, plan, ranges)}
    if ranges is not None:
        return _packaged_in_int8(work, ranges, model, files)
    return _packaged(work, model, files, plan)


def package_dense(work: Work) -> Done:
    """The dense model as dense.onnx: the file that came in, where it was one."""
    return _packaged(work, work.graph.model, {})


def dense_files(work: Work) -> dict[str, str]:
    """The files of a result that is the dense model itself."""
    return {
        "model.safetensors": _dense_weights(work),
        "plan.json": _put_plan(work, work.graph.dense_plan()),
    }


def _dense_weights(work: Work) -> str:
    """The weights as they were uploaded; those of an ONNX file, and of tensors whose names had a
    prefix, as the network holds them."""
    adapted = (work.snapshot.model.report or {}).get("adapted") or {}
    is_onnx = ModelSpec.model_validate(work.snapshot.model.spec).is_onnx
    if not is_onnx and "weights" not in adapted:
        return weights_name(work.snapshot.model.id)
    location = job_file_name(work.snapshot.job.id, "work/dense.safetensors")
    work.context.store.put(location, save(stored_tensors(work.graph.model)))
    return location


def _put_plan(work: Work, plan: Plan, rounding: QuantizedModel | None = None) -> str:
    document = plan_document(work.graph.model, work.graph, plan, rounding)
    location = job_file_name(work.snapshot.job.id, f"work/{plan.digest}/plan.json")
    work.context.store.put(location, json.dumps(document, indent=1).encode())
    return location


def _packaged(
    work: Work, model: nn.Module, files: dict[str, str], plan: Plan | None = None
) -> Done:
    graph, source = work.graph, _source(work)
    made = deliver(
        model.eval(),
        graph.model,
        graph.example_inputs,
        lambda count: (_samples(work, count),),
        source=source,
        analysis=graph,
        plan=plan,
        batch_size=work.snapshot.spec.target.batch_size,
    )
    return Done(_stored(work, made, files).document())


def _packaged_in_int8(
    work: Work, model: QuantizedModel, pruned: nn.Module, files: dict[str, str]
) -> Done:
    """The file with Q/DQ, and the accuracy of that file in ONNX Runtime."""
    graph, data = work.graph, work.data
    made = deliver_quantized(
        model,
        pruned,
        graph.model,
        graph.example_inputs,
        lambda count: (_samples(work, count),),
        source=_source(work),
        batch_size=work.snapshot.spec.target.batch_size,
    )
    validation = batches(data.images, data.splits.validation)
    found = file_accuracy(exact_file(made.onnx_bytes), validation)
    packaged = _stored(work, made, files).model_copy(update={"validation_accuracy": found})
    return Done(packaged.document())


def _stored(work: Work, made: Delivered, files: dict[str, str]) -> Packaged:
    blob = stored_blob(
        work.context.store, made.onnx_bytes, hashlib.sha256(made.onnx_bytes).hexdigest()
    )
    return Packaged(
        onnx=blob,
        files=files,
        worst_difference=made.worst_difference,
        way=made.way,
        reason=made.reason,
        opset=made.opset,
        notes=made.notes,
        batches=made.batches,
        sizes=made.sizes,
    )


def _source(work: Work) -> bytes | None:
    """The ONNX file that came in, where one did."""
    row = work.snapshot.model
    if not ModelSpec.model_validate(row.spec).is_onnx:
        return None
    return work.context.store.get(weights_name(row.id), sha256=row.weights_digest)


def _samples(work: Work, count: int) -> Tensor:
    """Validation images; from the first one again where there are fewer."""
    data = work.data
    index = data.splits.validation[torch.arange(count) % len(data.splits.validation)]
    return data.images.batch(index)
