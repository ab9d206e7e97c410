"""Specs: what is accepted, what it means where nothing is said, and how refusals are worded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from jobs.errors import SpecError
from jobs.settings import Settings
from jobs.spec import ConstraintsSpec, DatasetSpec, JobSpec, ModelSpec, TargetSpec, check_allowed
from jobs.validation import validate, validate_json
from latency_probes.messages import Target

JOB: dict[str, Any] = {"model": "net", "dataset": "photos", "budget": {"ratio": 0.6}}
MODEL: dict[str, Any] = {
    "name": "net",
    "architecture": "python:examples.resnet20:build",
    "input_shape": [1, 28, 28],
}
DATASET: dict[str, Any] = {"name": "photos", "format": "idx", "path": "/data"}
PYTHON_DATASET = {"name": "p", "format": "python", "function": "python:mod:fn"}


def refusals(kind: type[BaseModel], document: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        validate(kind, document)
    return [problem.message for problem in caught.value.problems]


def test_a_job_needs_only_model_dataset_and_budget() -> None:
    job = validate(JobSpec, JOB)
    assert (job.search.beam_width, job.search.children, job.search.levels) == (4, 6, 5)
    assert (job.search.criterion, job.search.seed, job.search.calibration_images) == ("l1", 0, 512)
    assert (job.search.finalists, job.finetune.batch_size) == (2, 128)
    assert job.search.blocks
    assert (job.target.device, job.target.runtime, job.target.threads) == ("any", "onnxruntime", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {"ratio": -1}}, "budget.ratio must be > 0, but got -1"),
        (
            {"budget": {"ratio": 60}},
            "budget.ratio must be a part of the dense latency, 0.6 for 60 %, but got 60",
        ),
        ({"budget": {"latency_ms": 0}}, "budget.latency_ms must be > 0, but got 0"),
        ({"budget": {}}, "budget must give one of ratio and latency_ms, but got neither"),
        (
            {"budget": {"ratio": 1, "latency_ms": 1}},
            "budget must give one of ratio and latency_ms, but got both",
        ),
        (
            {"budget": {"ratio": float("nan")}},
            "budget.ratio must be a finite number, but got nan",
        ),
        ({"budget": 0.5}, "budget must be an object, but got 0.5"),
        ({"model": None}, "model must be a text, but got None"),
        ({"model": "a b"}, "model must match"),
        ({"search": {"beam_width": 0}}, "search.beam_width must be >= 1, but got 0"),
        ({"search": {"blocks": "some"}}, "search.blocks must be"),
        ({"search": {"levels": "x"}}, "search.levels must be an integer, but got 'x'"),
        ({"search": {"widht": 1}}, "search.widht must not be given: there is no such field"),
        ({"finetune": {"steps": -1}}, "finetune.steps must be >= 0, but got -1"),
        ({"finetune": {"momentum": 1}}, "finetune.momentum must be < 1, but got 1"),
        (
            {"target": {"device": "phone"}},
            "target.device must be any, id:<id>, label:<name>=<value> or where:<expression>, "
            "but got 'phone'",
        ),
        (
            {"target": {"device": "where:cores >"}},
            "target.device must have a number, a text or a word at character 8",
        ),
        ({"target": {"batch_size": 5000}}, "target.batch_size must be <= 4096, but got 5000"),
        (
            {"target": {"runtime": "auto", "provider": "CPU"}},
            "target must leave the provider out with runtime auto, where each runtime has its "
            "usual one, but got 'CPU'",
        ),
    ],
)
def test_a_bad_job_is_refused_in_words(change: dict[str, Any], message: str) -> None:
    (refusal,) = refusals(JobSpec, JOB | change)
    assert refusal.startswith(message)


def test_what_has_no_wording_of_ours_is_told_in_pydantics() -> None:
    (refusal,) = refusals(ModelSpec, MODEL | {"kwargs": {"a": {1, 2}}})
    assert refusal.startswith("kwargs.a must be valid (")


def test_every_problem_is_told_at_once() -> None:
    told = refusals(JobSpec, {"model": "net", "budget": {"ratio": 0}, "extra": 1})
    assert told == [
        "dataset must be given, but got nothing",
        "budget.ratio must be > 0, but got 0",
        "extra must not be given: there is no such field",
    ]


def test_no_steps_of_fine_tuning_are_allowed() -> None:
    assert validate(JobSpec, JOB | {"finetune": {"steps": 0}}).finetune.steps == 0


def test_a_budget_above_the_dense_latency_is_allowed() -> None:
    assert validate(JobSpec, JOB | {"budget": {"ratio": 1.5}}).budget.ratio == 1.5


def test_a_spec_survives_json() -> None:
    job = validate(JobSpec, JOB | {"target": {"device": "label:room=lab"}})
    assert validate(JobSpec, json.loads(job.model_dump_json())) == job


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(SpecError, match="document must be JSON, but got"):
        validate_json(JobSpec, b"{")


def test_the_device_is_told_the_target_without_the_selector() -> None:
    assert TargetSpec(device="any", threads=2).how == Target(threads=2)


@pytest.mark.parametrize(
    "architecture",
    [
        "python:examples.resnet20:build",
        "torchvision:resnet50",
        "timm:vit_base_patch16_224.augreg_in21k",
        "transformers:google/vit-base-patch16-224",
    ],
)
def test_these_architectures_are_known_forms(architecture: str) -> None:
    assert validate(ModelSpec, MODEL | {"architecture": architecture})


def test_an_onnx_file_needs_no_input_shape() -> None:
    spec = validate(ModelSpec, {"name": "net", "architecture": "onnx"})
    assert (spec.is_onnx, spec.input_shape) == (True, None)
    assert validate(ModelSpec, MODEL | {"architecture": "onnx"}).input_shape == (1, 28, 28)


def test_other_architectures_need_one() -> None:
    document = {"name": "net", "architecture": "timm:resnet18"}
    assert refusals(ModelSpec, document) == ["input_shape must be given, but got nothing"]


def test_an_onnx_file_takes_no_arguments() -> None:
    document = {"name": "net", "architecture": "onnx", "kwargs": {"width": 2}}
    assert refusals(ModelSpec, document) == ["kwargs must not be given with architecture onnx"]


@pytest.mark.parametrize(
    "architecture",
    ["resnet20", "python:os", "python:os.system", "python::f", "timm:", "keras:x", "timm:../x y"],
)
def test_other_architectures_are_refused(architecture: str) -> None:
    (refusal,) = refusals(ModelSpec, MODEL | {"architecture": architecture})
    assert refusal.startswith("architecture must be python:module:function, torchvision:name")
    assert refusal.endswith(f"but got {architecture!r}")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([], "input_shape must have at least one entry, but got none"),
        ([0], "input_shape.0 must be >= 1, but got 0"),
        ([1] * 6, "input_shape must have at most 5 entries, but got [1, 1, 1, 1, 1, 1]"),
        ([3, 0, 8], "input_shape.1 must be >= 1, but got 0"),
        ("3x8", "input_shape must be a list, but got '3x8'"),
    ],
)
def test_a_bad_input_shape_is_refused(shape: Any, message: str) -> None:
    assert refusals(ModelSpec, MODEL | {"input_shape": shape}) == [message]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (DATASET | {"path": "data"}, "path must be absolute, but got 'data'"),
        (DATASET | {"format": "csv"}, "format must be 'idx', 'npz', 'image_folder' or 'python'"),
        (DATASET | {"num_classes": 1}, "num_classes must be >= 2, but got 1"),
        (DATASET | {"std": [0.0]}, "std.0 must be > 0, but got 0.0"),
        (DATASET | {"mean": [0, 0], "std": [1]}, "document must have as many entries in mean"),
        (DATASET | {"function": "python:m:f"}, "document must give function and kwargs only"),
        (PYTHON_DATASET | {"path": "/x"}, "document of format python must give function and no"),
        (PYTHON_DATASET | {"function": "os.system"}, "function must be python:module:function"),
    ],
)
def test_a_bad_data_set_is_refused(document: dict[str, Any], message: str) -> None:
    (refusal,) = refusals(DatasetSpec, document)
    assert refusal.startswith(message)


@pytest.mark.parametrize(
    ("document", "needed"),
    [
        (DATASET, False),
        (PYTHON_DATASET, False),
        ({"name": "p", "format": "npz"}, True),
    ],
)
def test_a_data_set_without_a_source_needs_an_archive(
    document: dict[str, Any], needed: bool
) -> None:
    assert validate(DatasetSpec, document).needs_archive is needed


class TestAllowList:
    def test_code_that_is_not_in_the_list_is_refused(self, tmp_path: Path) -> None:
        spec = validate(ModelSpec, MODEL)
        with pytest.raises(SpecError, match="architecture must be allowed by SECATEUR_ALLOW"):
            check_allowed(spec, Settings(home=tmp_path))
        settings = Settings(home=tmp_path, allow=frozenset({"python:a:b"}))
        data = validate(DatasetSpec, PYTHON_DATASET)
        with pytest.raises(SpecError, match=r"\(python:a:b\), but got 'python:mod:fn'"):
            check_allowed(data, settings)

    def test_code_in_the_list_and_the_zoos_are_allowed(self, tmp_path: Path) -> None:
        settings = Settings(home=tmp_path, allow=frozenset({MODEL["architecture"]}))
        check_allowed(validate(ModelSpec, MODEL), settings)
        check_allowed(validate(ModelSpec, MODEL | {"architecture": "timm:x"}), settings)
        check_allowed(validate(DatasetSpec, DATASET), settings)


@pytest.mark.parametrize("path", ["/data/a\0b", "/data/\ud800"])
def test_a_path_that_no_file_system_takes_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match="path must be the path of a file or folder"):
        validate(DatasetSpec, {"name": "p", "format": "npz", "path": path})


@pytest.mark.parametrize(
    ("given", "floor"),
    [({}, 0.0), ({"min_accuracy": 0.8}, 0.8), ({"max_accuracy_drop": 0.25}, 0.5)],
)
def test_the_accuracy_floor_is_absolute_or_below_the_dense_model(
    given: dict[str, float], floor: float
) -> None:
    assert ConstraintsSpec(**given).least_accuracy(dense=0.75) == floor


def test_shares_are_read_as_people_write_them() -> None:
    given = ConstraintsSpec.model_validate({"min_accuracy": "90%"})
    assert given.min_accuracy == 0.9
    assert ConstraintsSpec.model_validate({"max_accuracy_drop": "1%"}).max_accuracy_drop == 0.01
    with pytest.raises(ValueError, match="must be a share, such as 90% or 0.9, but got '90x'"):
        ConstraintsSpec.model_validate({"min_accuracy": "90x"})


@pytest.mark.parametrize("given", ["30m", "0.5h", "1800 s", "30min", "1800", 1800])
def test_times_are_read_as_people_write_them(given: str | int) -> None:
    assert ConstraintsSpec.model_validate({"time_limit_s": given}).time_limit_s == 1800


@pytest.mark.parametrize("given", ["30 days", "soon", 0, "-5m", "inf"])
def test_what_is_no_time_is_refused(given: str | int) -> None:
    with pytest.raises(ValueError, match="time_limit_s"):
        ConstraintsSpec.model_validate({"time_limit_s": given})


def test_megabytes_are_parameters_of_four_bytes() -> None:
    assert ConstraintsSpec(max_size_mb=2.0).most_parameters == 500_000
    assert ConstraintsSpec(max_parameters=7).most_parameters == 7
    assert ConstraintsSpec().most_parameters is None


@pytest.mark.parametrize(
    "pair", [("max_parameters", "max_size_mb"), ("min_accuracy", "max_accuracy_drop")]
)
def test_two_limits_of_one_thing_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=f"must give one of {pair[0]} and {pair[1]}"):
        ConstraintsSpec(**dict.fromkeys(pair, 1))
