"""Reads the test images, once and after the choice, and writes the files of the result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from safetensors.torch import load
from torch import Tensor, nn

from jobs.artifacts import Stored, job_file_name
from jobs.duty import duties
from jobs.repository import artifacts, candidates, jobs, measurements
from jobs.states import TERMINAL
from jobs.tables import Candidate, Measurement
from search.candidates import candidate, quantized
from search.evaluation import accuracy
from search.onnx_out import exact_file, file_accuracy
from search.plan import Plan
from search.tensors import load_tensors
from workers.library import job_source
from workers.loaders.datasets import Images
from workers.phases import precision
from workers.phases.facts import PACKAGE_DENSE, Verified, dense_measurement, winner
from workers.report.card import model_card
from workers.report.details import details
from workers.report.document import report_document
from workers.report.page import report_page
from workers.report.robustness import IMAGES, robustness
from workers.results import Finished, Packaged
from workers.tasks.exports import exported
from workers.tasks.metrics import BATCH, batches
from workers.tasks.package import dense_files
from workers.work import Done, Work


def finish(work: Work) -> Done:
    """{"test_images", "dense_accuracy", "accuracy"}, after every file has been stored."""
    best = winner(work.snapshot) if work.payload["digest"] is not None else None
    test = job_source(work.context, work.snapshot.dataset, work.snapshot.model).read("test")
    dense_accuracy = _accuracy(work.graph.model, test)
    finished = Finished(
        test_images=len(test),
        dense_accuracy=dense_accuracy,
        accuracy=dense_accuracy if best is None else _result_accuracy(work, best, test),
        duty=_duty(work),
    )
    dense = Packaged.model_validate(work.snapshot.result(PACKAGE_DENSE))
    packaged = dense if best is None else best.packaged
    files = {
        **(dense_files(work) if best is None else packaged.files),
        "model.onnx": packaged.onnx.location,
        "dense.onnx": dense.onnx.location,
    }
    known = {
        "dense": _details(work, dense_measurement(work.snapshot)),
        "result": _details(work, (best and best.latency) or dense_measurement(work.snapshot)),
    }
    report = report_document(work.snapshot, finished, best, _tree(work), known)
    report["robustness"] = _robustness(work, best)
    made, report["exports"] = _exports(work, best, packaged)
    stored = {name: _copied(work, name, location) for name, location in files.items()}
    stored["report.json"] = _put(work, "report.json", json.dumps(report, indent=1))
    stored["report.html"] = _put(work, "report.html", report_page(report))
    stored["model.md"] = _put(work, "model.md", model_card(report))
    for name, data in made.items():
        location = job_file_name(work.snapshot.job.id, name)
        stored[name] = work.context.store.put(location, data)
    _record(work, stored)
    return Done(finished.document())


def _duty(work: Work) -> dict[str, float]:
    with work.context.read() as session:
        return duties(measurements.spans(session, work.snapshot.job.id))


def _robustness(work: Work, best: Verified | None) -> dict[str, Any]:
    model = work.graph.model if best is None else _pruned(work, best).eval()
    data = work.data
    return robustness(model, batches(data.images, data.splits.calibration[:IMAGES]))


def _exports(
    work: Work, best: Verified | None, packaged: Packaged
) -> tuple[dict[str, bytes], dict[str, str]]:
    names = work.snapshot.spec.exports
    if not names:
        return {}, {}
    model = work.graph.model if best is None else _judged(work, best)
    data = work.data
    images = data.images.batch(
        data.splits.validation[: max(2, work.snapshot.spec.target.batch_size)]
    )
    return exported(names, model, work.context.store.get(packaged.onnx.location), images)


def _judged(work: Work, best: Verified) -> nn.Module:
    """The result as it was judged: its layers in int8 are rounded."""
    plan, form = best.chosen.to_plan(), precision.format_of(work.snapshot)
    model = _pruned(work, best).eval()
    if form is None or not plan.precision:
        return model
    data = work.data
    inputs = [images for images, _ in batches(data.images, data.splits.calibration)]
    return quantized(work.graph.model, work.graph, plan, model, inputs, form)


def _tree(work: Work) -> list[dict[str, Any]]:
    with work.context.read() as session:
        rows = candidates.tree(session, work.snapshot.job.id)
    names = [column.name for column in Candidate.__table__.columns if column.name != "job_id"]
    return [{name: getattr(row, name) for name in names} for row in rows]


def _details(work: Work, row: Measurement) -> dict[str, Any]:
    with work.context.read() as session:
        found = measurements.find(session, row.id)
        return details(None if found is None else found.raw)


def _pruned(work: Work, best: Verified) -> nn.Module:
    plan = Plan.from_document(best.chosen.plan)
    model = candidate(work.graph.model, work.graph, plan)
    load_tensors(model, load(work.context.store.get(best.finetuned.weights)))
    return model


def _result_accuracy(work: Work, best: Verified, test: Images) -> float:
    """Of the ONNX file itself where layers are in int8, else of the model that it equals."""
    if best.packaged.validation_accuracy is None:
        return _accuracy(_pruned(work, best), test)
    data = work.context.store.get(best.packaged.onnx.location)
    return file_accuracy(exact_file(data), _slices(test))


def _slices(test: Images) -> Iterator[tuple[Tensor, Tensor]]:
    index = range(0, len(test), BATCH)
    return (test.slice(start, start + BATCH) for start in index)


def _accuracy(model: nn.Module, test: Images) -> float:
    return accuracy(model, _slices(test))


def _copied(work: Work, name: str, location: str) -> Stored:
    store = work.context.store
    return store.put(job_file_name(work.snapshot.job.id, name), store.get(location))


def _put(work: Work, name: str, text: str) -> Stored:
    return work.context.store.put(job_file_name(work.snapshot.job.id, name), text.encode())


def _record(work: Work, stored: Mapping[str, Stored]) -> None:
    """Names the files, unless the job was cancelled or removed meanwhile: the sweep takes them."""
    job_id = work.snapshot.job.id
    with work.context.unit() as unit:
        job = jobs.lock(unit.session, job_id)
        if job is None or job.state in TERMINAL:
            return
        for name, file in stored.items():
            artifacts.record(unit.session, job_id, name, file)
