"""Whole jobs on a device with int8: layers are rounded where that is faster."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from jobs.artifacts import job_file_name
from latency_probes.messages import MeasureError
from latency_probes.samples import Measurement
from search.loading import load_pruned
from tests.e2e_tests.nets import tiny_resnet
from tests.workers_tests.nets import SHAPE
from tests.workers_tests.rows import CAPABILITIES, measured, online_device
from tests.workers_tests.workshop import Question, Workshop
from workers.phases import preparing
from workers.report.ways import ANSWER

SPEEDS = {"uint8": 0.35, "int8": 1.6}  # of the float time, by the type of activations


def quick_integers(question: Question) -> Measurement | MeasureError:
    """A layer takes a part of its time in u8s8, more than that in s8s8, and a border a little."""
    candidate, reference = latency(question.candidate), latency(question.reference)
    return measured(candidate, reference, kind=question.kind)


def latency(model: bytes, speeds: dict[str, float] = SPEEDS) -> int:
    """A constant, and the products of weights in blocks of 8 by the speed of their layer."""
    graph = onnx.load_from_string(model).graph
    makers = {name: node for node in graph.node for name in node.output}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    time, before, kind = 400.0, 1.0, "Conv"
    for layer in (node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")):
        weight = layer.input[1]
        while weight not in shapes:
            weight = makers[weight].input[0]
        speed = _speed(layer, makers, speeds)
        blocks = math.prod(8 * math.ceil(size / 8) for size in shapes[weight])
        time += speed * blocks + (50.0 if speed != before else 0.0)
        before, kind = speed, layer.op_type
    assert kind in ("Gemm", "MatMul")  # the head
    return round(1000 * time)


def _speed(
    layer: onnx.NodeProto, makers: dict[str, onnx.NodeProto], speeds: dict[str, float]
) -> float:
    maker = makers.get(layer.input[0])
    if maker is None or maker.op_type != "DequantizeLinear":
        return 1.0
    kind = makers[maker.input[2]].attribute[0].t.data_type
    return speeds["uint8" if kind == onnx.TensorProto.UINT8 else "int8"]


def _device(workshop: Workshop, *formats: str) -> str:
    runtimes: Any = CAPABILITIES["runtimes"]
    told = {name: {**each, "formats": list(formats)} for name, each in runtimes.items()}
    with workshop.bench.write() as session:
        name = f"integer-{next(workshop.names)}"
        return online_device(session, name, capabilities={**CAPABILITIES, "runtimes": told}).id


def _files(workshop: Workshop, job_id: str) -> dict[str, bytes]:
    store = workshop.bench.context.store
    names = (
        "model.onnx",
        "model.safetensors",
        "plan.json",
        "report.json",
        "report.html",
        "model.md",
    )
    return {name: store.get(job_file_name(job_id, name)) for name in names}


def test_a_job_mixes_widths_and_int8_and_hands_back_a_file_with_q_and_dq(
    workshop: Workshop, tmp_path: Path
) -> None:
    device = _device(workshop, "u8s8", "s8s8")
    finetune = {"steps": 3, "batch_size": 16}
    job_id = workshop.submit(budget={"ratio": 0.25}, finetune=finetune)
    told: list[tuple[str, list[float]]] = []

    def look() -> bool:
        now = workshop.job(job_id).progress or {}
        if now.get("seconds_left_range"):
            told.append((now["phase"], now["seconds_left_range"]))
        return False

    job = workshop.play(job_id, quick_integers, device_id=device, until=look)
    assert job.state == "succeeded", job.problem
    assert {phase for phase, _ in told} >= {"searching", "finetuning", "verifying"}
    for (_, before), (_, after) in pairwise(told):  # a range that does not grow
        assert after[0] <= before[0]
        assert after[1] <= before[1]
        assert 0 <= after[0] <= after[1]
    assert (job.result or {})["ratio"] <= 0.25
    assert (job.progress or {})["reused"] == 0  # dense int8 was measured first, by this job
    files = _files(workshop, job_id)
    plan = json.loads(files["plan.json"])
    (tmp_path / "plan.json").write_bytes(files["plan.json"])
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"])
    load_pruned(tiny_resnet(), tmp_path / "plan.json", tmp_path / "model.safetensors")
    assert plan["plan"]["version"] == 2
    assert plan["plan"]["precision"]
    assert plan["quantization"]["format"] == "u8s8"
    proto = onnx.load_from_string(files["model.onnx"])
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("QuantizeLinear") > 0
    session = onnxruntime.InferenceSession(files["model.onnx"])
    (port,) = session.get_inputs()
    assert not isinstance(port.shape[0], int)  # any number of examples
    assert np.isfinite(session.run(None, {port.name: np.zeros((3, *SHAPE), np.float32)})[0]).all()
    report = json.loads(files["report.json"])
    assert report["precision"]["format"] == "u8s8"
    assert set(report["precision"]["dense"]) == {"u8s8", "s8s8"}
    assert report["precision"]["dense"]["u8s8"] < 0.6 < report["precision"]["dense"]["s8s8"]
    chosen = {row["layer"] for row in report["precision"]["layers"] if row["precision"] == "int8"}
    assert chosen == set(plan["plan"]["precision"])
    ways = {row["way"]: row for row in report["ways"]}
    assert ways["int8 alone"]["ratio"] == report["precision"]["dense"]["u8s8"]
    assert ways["both together"]["meets"]
    asked = workshop.tasks(job_id, "sensitivity")
    whole = [task for task in asked if task.key.startswith("sensitivity:all in int8:")]
    parts = [task for task in asked if task.key.startswith("sensitivity:all in int8 but ")]
    assert len(whole) == 1
    answered = whole[0].result or {}
    assert answered["rise"] == report["precision"]["rise"]
    is_noise = answered["rise"] <= answered["standard_error"]
    segments = {row["segment"] for row in report["precision"]["layers"]}
    assert len(parts) == (0 if is_noise else len(segments))
    assert b"u8s8" in files["report.html"]
    assert b"The simple ways" in files["report.html"]
    assert b"int8" in files["model.md"]


def test_dense_int8_that_is_good_enough_is_the_answer_and_nothing_is_pruned(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before what each layer can lose is known, and without training."""
    monkeypatch.setattr(preparing, "AHEAD", 0)
    job_id = workshop.submit(budget={"ratio": 0.6}, finetune={"steps": 3, "batch_size": 16})
    job = workshop.play(job_id, quick_integers, device_id=_device(workshop, "u8s8"))
    assert job.state == "succeeded", job.problem
    assert ANSWER in (job.result or {})["warning"]
    (trained,) = workshop.tasks(job_id, "finetune")
    assert (trained.result or {})["steps"] == 0
    state = workshop.snapshot(job_id).search_state or {}
    assert state["explorer"]["given"]["sensitivity"] is None
    report = json.loads(_files(workshop, job_id)["report.json"])
    dense = {group["name"]: group["width"] for group in report["groups"]["groups"]}
    assert report["widths"] == dense
    assert {row["precision"] for row in report["precision"]["layers"]} == {"int8"}
    assert len(workshop.requests(job_id, "screening:")) <= 4


def test_a_budget_out_of_reach_ends_before_the_sensitivities_are_known(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "first_of", lambda snapshot, tasks: ())
    job_id = workshop.submit(budget={"ratio": 0.01})
    job = workshop.play(job_id, quick_integers, device_id=_device(workshop, "u8s8"))
    assert job.state == "infeasible", job.problem
    state = workshop.snapshot(job_id).search_state or {}
    assert state["explorer"]["given"]["sensitivity"] is None


def test_a_device_without_formats_is_searched_in_float(workshop: Workshop) -> None:
    job_id = workshop.submit()
    assert workshop.play(job_id, until=lambda: workshop.job(job_id).state == "searching")
    assert not workshop.requests(job_id, "int8:")


def test_the_segments_are_found_before_the_many_sensitivities(workshop: Workshop) -> None:
    device = _device(workshop, "u8s8")
    job_id = workshop.submit()
    workshop.play(
        job_id,
        quick_integers,
        device_id=device,
        until=lambda: any(task.result for task in workshop.tasks(job_id, "sensitivity")),
    )
    assert [task.state for task in workshop.tasks(job_id, "segments")] == ["done"]
    assert len(workshop.tasks(job_id, "sensitivity")) > 1


def test_float32_asks_for_no_int8(workshop: Workshop) -> None:
    spec = {"levels": 1, "beam_width": 1, "children": 1, "calibration_images": 32}
    job_id = workshop.submit(search={**spec, "precision": "float32"})
    device = _device(workshop, "u8s8")
    workshop.play(
        job_id,
        quick_integers,
        device_id=device,
        until=lambda: workshop.job(job_id).state == "searching",
    )
    assert not workshop.requests(job_id, "int8:")
    assert not workshop.tasks(job_id, "segments")


@pytest.mark.parametrize("formats", [(), ("u4s4",)])
def test_int8_where_there_is_none_is_refused_with_the_device(
    workshop: Workshop, formats: tuple[str, ...]
) -> None:
    spec = {"levels": 1, "beam_width": 1, "children": 1, "calibration_images": 32}
    job_id = workshop.submit(search={**spec, "precision": "int8"})
    job = workshop.play(job_id, quick_integers, device_id=_device(workshop, *formats))
    assert job.state == "failed"
    assert job.problem is not None
    assert job.problem["title"] == "The runtime has no int8"
    assert "integer-" in job.problem["detail"]
