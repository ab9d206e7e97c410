"""Whole jobs that leave the runtime to measurements: `target.runtime: auto`."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from sqlalchemy import update

from jobs.artifacts import job_file_name
from jobs.tables import Device
from latency_probes.messages import MeasureError, Target
from latency_probes.samples import Measurement
from tests.workers_tests.rows import measured, online_device
from tests.workers_tests.test_job_precision import SPEEDS, latency
from tests.workers_tests.workshop import Answer, Question, Workshop

USUAL = {"onnxruntime": "CPUExecutionProvider", "openvino": "CPU", "torch": "eager"}
# By runtime: of all times, and of layers in int8.
PACE = {"onnxruntime": 1.0, "openvino": 1.1, "torch": 0.1, "replay": 0.1}
INT8 = {"onnxruntime": SPEEDS, "openvino": {"uint8": 0.2, "int8": 0.3}}
SMALL = {
    "levels": 1,
    "beam_width": 1,
    "children": 2,
    "calibration_images": 32,
    "staircase_points": 2,
    "refinements": 0,
    "finalists": 1,
}


def two_runtimes(question: Question) -> Measurement | MeasureError:
    """OpenVINO is slower in float32 and faster in int8."""
    pace, speeds = PACE[question.runtime], INT8.get(question.runtime, SPEEDS)
    times = (latency(each, speeds) for each in (question.candidate, question.reference))
    candidate, reference = (round(pace * time) for time in times)
    return measured(candidate, reference, kind=question.kind)


def lacking(runtime: str, *purposes: str) -> Answer:
    """The same where one runtime cannot run what these requests ask for."""

    def answer(question: Question) -> Measurement | MeasureError:
        if question.runtime == runtime and question.purpose.startswith(purposes or ("",)):
            return MeasureError(kind="unsupported_op", message=f"{runtime} lacks Foo")
        return two_runtimes(question)

    return answer


def told(**formats: tuple[str, ...]) -> dict[str, Any]:
    """What a device announces: runtimes with their formats."""
    return {
        "cores": 2,
        "runtimes": {
            name: {"version": "1", "providers": [USUAL.get(name, "CPU")], "formats": list(each)}
            for name, each in formats.items()
        },
    }


BOTH = told(onnxruntime=("u8s8",), openvino=("u8s8", "s8s8"), torch=())


def device(workshop: Workshop, capabilities: dict[str, Any] = BOTH) -> str:
    with workshop.bench.write() as session:
        name = f"board-{next(workshop.names)}"
        return online_device(session, name, capabilities=capabilities).id


def submit(workshop: Workshop, device_id: str, **changes: Any) -> str:
    target = {"runtime": "auto", "device": f"id:{device_id}"}
    settings: dict[str, Any] = {"target": target, "search": SMALL} | changes
    return workshop.submit(**settings)


def asked(workshop: Workshop, job_id: str) -> dict[str, str]:
    """Purpose -> the target of the request."""
    found = workshop.snapshot(job_id).requests.values()
    return {each.purpose: Target.model_validate(each.target).key for each in found}


def test_the_fastest_simple_answer_decides_and_all_else_is_measured_in_its_runtime(
    workshop: Workshop,
) -> None:
    board = device(workshop)
    job_id = submit(workshop, board, budget={"ratio": 0.25})
    job = workshop.play(job_id, two_runtimes, device_id=board)
    assert job.state == "succeeded", job.problem
    requests = asked(workshop, job_id)
    simple = {name: key for name, key in requests.items() if name.startswith(("dense", "int8"))}
    assert simple == {
        "dense": "onnxruntime/CPUExecutionProvider/b1/t1",
        "dense:openvino": "openvino/CPU/b1/t1",
        "int8:onnxruntime:u8s8": "onnxruntime/CPUExecutionProvider/b1/t1",
        "int8:openvino:s8s8": "openvino/CPU/b1/t1",
        "int8:openvino:u8s8": "openvino/CPU/b1/t1",
    }
    rest = {key for name, key in requests.items() if name not in simple}
    assert rest == {"openvino/CPU/b1/t1"}
    result = job.result or {}
    assert (result["runtime"], result["int8_format"]) == ("openvino", "u8s8")
    answers = {(each["runtime"], each["format"]): each for each in result["runtimes"]}
    assert len(answers) == 5
    float_ms = {
        name: answers[name, "float32"]["latency_ms"] for name in ("onnxruntime", "openvino")
    }
    assert float_ms["openvino"] == pytest.approx(1.1 * float_ms["onnxruntime"], rel=1e-5)
    assert result["dense_latency_ms"] == pytest.approx(float_ms["openvino"])
    assert result["budget_ms"] == pytest.approx(0.25 * float_ms["openvino"])
    best = min(result["runtimes"], key=lambda each: each["latency_ms"])
    assert (best["runtime"], best["format"], best["error"]) == ("openvino", "u8s8", None)
    assert best["latency_ms"] == pytest.approx(best["ratio"] * float_ms["openvino"])
    (final,) = workshop.requests(job_id, "final:")
    assert final.settings["usual_ms"] == pytest.approx(float_ms["openvino"])
    store = workshop.bench.context.store
    report = json.loads(store.get(job_file_name(job_id, "report.json")))
    assert report["result"]["runtimes"] == result["runtimes"]
    assert report["precision"]["dense"]["u8s8"] == best["ratio"]
    for name in ("report.html", "model.md"):
        words = store.get(job_file_name(job_id, name)).decode()
        assert "Deploy the result in openvino (version 1)" in words
        assert f"{float_ms['onnxruntime']:.3f} ms" in words


def test_int8_that_meets_the_budget_in_the_chosen_runtime_ends_the_search(
    workshop: Workshop,
) -> None:
    board = device(workshop)
    job_id = submit(workshop, board, budget={"ratio": 0.6})
    job = workshop.play(job_id, two_runtimes, device_id=board)
    assert job.state == "succeeded", job.problem
    assert (job.result or {})["runtime"] == "openvino"
    assert len(workshop.requests(job_id, "screening:")) <= 4


def test_without_int8_the_fastest_in_float32_is_chosen(workshop: Workshop) -> None:
    board = device(workshop)
    job_id = submit(workshop, board, search={**SMALL, "precision": "float32"})
    workshop.play(
        job_id, two_runtimes, device_id=board,
        until=lambda: workshop.job(job_id).state == "searching",
    )  # fmt: skip
    assert workshop.snapshot(job_id).target == Target()
    assert not workshop.requests(job_id, "int8:")
    assert not workshop.tasks(job_id, "segments")


def state(workshop: Workshop, board: str, chance: random.Random | None) -> tuple[Any, ...]:
    """What a job has asked, and what it searched, up to its fine-tuning."""
    job_id = submit(workshop, board, budget={"ratio": 0.25})
    workshop.play(
        job_id, two_runtimes, device_id=board, chance=chance,
        until=lambda: workshop.job(job_id).state == "finetuning",
    )  # fmt: skip
    snapshot = workshop.snapshot(job_id)
    workshop.bench.take_messages()
    chosen = (snapshot.search_state or {})["chosen"]
    return chosen, snapshot.target, sorted(asked(workshop, job_id)), sorted(snapshot.tasks)


def test_the_choice_does_not_depend_on_the_order_of_answers(workshop: Workshop) -> None:
    in_order = state(workshop, device(workshop), None)
    assert in_order[1] == Target(runtime="openvino")
    for seed in (1, 2):
        assert state(workshop, device(workshop), random.Random(seed)) == in_order


def test_what_a_device_announces_later_changes_nothing(workshop: Workshop) -> None:
    board = device(workshop, told(onnxruntime=("u8s8",)))
    job_id = submit(workshop, board)
    workshop.play(
        job_id, two_runtimes, device_id=board,
        until=lambda: bool(workshop.requests(job_id, "screening:")),
    )  # fmt: skip
    with workshop.bench.write() as session:
        session.execute(update(Device).where(Device.id == board).values(capabilities=BOTH))
    job = workshop.play(job_id, two_runtimes, device_id=board)
    assert job.state == "succeeded", job.problem
    assert (job.result or {})["runtime"] == "onnxruntime"
    assert {each["runtime"] for each in (job.result or {})["runtimes"]} == {"onnxruntime"}


@pytest.mark.parametrize(
    ("runtime", "left"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime")]
)
def test_a_runtime_that_cannot_run_the_model_loses_and_is_listed(
    workshop: Workshop, runtime: str, left: str
) -> None:
    board = device(workshop)
    job_id = submit(workshop, board, budget={"ratio": 1.5})
    job = workshop.play(job_id, lacking(runtime), device_id=board)
    assert job.state == "succeeded", job.problem
    result = job.result or {}
    assert (result["runtime"], result["unpruned"]) == (left, True)
    failed = [each for each in result["runtimes"] if each["error"] is not None]
    assert [(each["runtime"], each["format"]) for each in failed] == [(runtime, "float32")]
    assert failed[0]["error"] == f"unsupported_op: {runtime} lacks Foo"
    assert failed[0]["latency_ms"] is None
    assert not [name for name in asked(workshop, job_id) if f"int8:{runtime}" in name]


def test_a_format_that_fails_is_listed_and_the_others_count(workshop: Workshop) -> None:
    board = device(workshop)
    job_id = submit(workshop, board)
    answer = lacking("openvino", "int8")
    workshop.play(
        job_id, answer, device_id=board,
        until=lambda: workshop.job(job_id).state == "searching",
    )  # fmt: skip
    snapshot = workshop.snapshot(job_id)
    assert snapshot.target.runtime == "onnxruntime"
    errors = {each.format for each in snapshot.answers.all() if each.error is not None}
    assert errors == {"u8s8", "s8s8"}


def test_where_no_runtime_runs_the_model_the_job_ends_with_each_one_s_words(
    workshop: Workshop,
) -> None:
    def none(question: Question) -> MeasureError:
        return MeasureError(kind="unsupported_op", message=f"{question.runtime} lacks Foo")

    board = device(workshop)
    job_id = submit(workshop, board)
    job = workshop.play(job_id, none, device_id=board)
    assert job.state == "failed"
    problem = job.problem or {}
    assert problem["title"] == "The dense model could not be measured"
    for name in ("onnxruntime", "openvino"):
        assert f"{name}: unsupported_op: {name} lacks Foo" in problem["detail"]
    assert sorted(asked(workshop, job_id)) == ["dense", "dense:openvino"]


def test_int8_is_chosen_among_runtimes_that_have_it(workshop: Workshop) -> None:
    board = device(workshop, told(onnxruntime=("s8s8",), openvino=()))
    job_id = submit(workshop, board, search={**SMALL, "precision": "int8"})
    workshop.play(
        job_id, two_runtimes, device_id=board,
        until=lambda: workshop.job(job_id).state == "searching",
    )  # fmt: skip
    assert workshop.snapshot(job_id).target.runtime == "onnxruntime"  # s8s8 is slower than float


@pytest.mark.parametrize(
    ("capabilities", "words"),
    [
        (told(onnxruntime=(), openvino=()), "(onnxruntime has none; openvino has none)"),
        (BOTH, "(onnxruntime in u8s8: unsupported_op: as if; openvino in u8s8: "),
    ],
)
def test_int8_that_no_runtime_has_is_refused_with_what_each_said(
    workshop: Workshop, capabilities: dict[str, Any], words: str
) -> None:
    def float_alone(question: Question) -> Measurement | MeasureError:
        if question.purpose.startswith("int8"):
            return MeasureError(kind="unsupported_op", message="as if")
        return two_runtimes(question)

    board = device(workshop, capabilities)
    job_id = submit(workshop, board, search={**SMALL, "precision": "int8"})
    job = workshop.play(job_id, float_alone, device_id=board)
    assert job.state == "failed"
    assert (job.problem or {})["title"] == "No runtime has int8"
    assert words in (job.problem or {})["detail"]


def test_torch_takes_part_where_there_is_nothing_else(workshop: Workshop) -> None:
    board = device(workshop, told(torch=(), replay=()))
    job_id = submit(workshop, board, budget={"ratio": 1.5})
    job = workshop.play(job_id, two_runtimes, device_id=board)
    assert (job.result or {})["target"] == "torch/eager/b1/t1"
    assert asked(workshop, job_id) == {"dense": "torch/eager/b1/t1"}
