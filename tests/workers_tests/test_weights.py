"""Weights are taken only if every name, shape and value fits; what does not is listed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from jobs.spec import ModelSpec
from tests.workers_tests import nets
from workers.loaders.errors import ArchitectureError, WeightsError
from workers.loaders.models import example_inputs, load_model
from workers.loaders.weights import LISTED, load_weights


def stored(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path / "weights.safetensors")
    return path / "weights.safetensors"


def test_fitting_weights_are_loaded(tmp_path: Path) -> None:
    wanted = nets.weights(nets.seeded(nets.small()))
    model = nets.small()
    load_weights(model, stored(tmp_path, wanted))
    assert all(torch.equal(model.state_dict()[name], wanted[name]) for name in wanted)


def test_tied_weights_are_given_once(tmp_path: Path) -> None:
    wanted = nets.weights(nets.tied())
    del wanted["second.weight"]
    model = nets.tied()
    load_weights(model, stored(tmp_path, wanted))
    assert torch.equal(model.state_dict()["second.weight"], wanted["first.weight"])


def test_missing_unknown_misshapen_and_infinite_tensors_are_listed(tmp_path: Path) -> None:
    given = nets.weights(nets.small(8))
    given["1.weight"] = torch.zeros(7, 144)
    given["1.bias"][0] = float("nan")
    del given["3.weight"]
    given["4.weight"] = torch.zeros(2)
    with pytest.raises(WeightsError, match="4 tensors do not fit") as caught:
        load_weights(nets.small(8), stored(tmp_path, given))
    assert {each["field"]: each["message"] for each in caught.value.errors} == {
        "1.bias": "holds values that are not finite",
        "1.weight": "shape must be [8, 144], but got [7, 144]",
        "3.weight": "missing; expected shape [4, 8]",
        "4.weight": "unknown to the architecture, shape [2]",
    }
    assert caught.value.problem()["errors"] == caught.value.errors


def test_only_the_first_findings_are_listed(tmp_path: Path) -> None:
    given = {f"more.{index}": torch.zeros(1) for index in range(LISTED + 20)}
    with pytest.raises(WeightsError) as caught:
        load_weights(nets.small(), stored(tmp_path, given))
    assert len(caught.value.errors) == LISTED


@pytest.mark.parametrize("data", [b"", b"not safetensors at all", b"\x80\x02}q\x00."])
def test_damaged_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(nets.small(), path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(nets.small(), tmp_path / "nothing")


def spec(function: str, shape: tuple[int, ...]) -> ModelSpec:
    return ModelSpec(name="net", architecture=f"{nets.HERE}:{function}", input_shape=shape)


def test_loaded_model_is_tried_on_its_input_shape(tmp_path: Path) -> None:
    small = spec("small", (1, 12, 12))
    path = stored(tmp_path, nets.weights(nets.small()))
    model = load_model(small, path, allow=[small.architecture])
    assert model(*example_inputs(model, small)).shape == (2, 4)
    wrong = spec("small", (1, 13, 13))
    with pytest.raises(ArchitectureError, match=r"does not run on inputs of shape \[1, 13, 13\]"):
        load_model(wrong, path, allow=[wrong.architecture])


@pytest.mark.parametrize(
    ("function", "got"), [("feature_maps", r"\[2, 1, 4, 4\]"), ("several", "with 0 ")]
)
def test_output_that_is_no_class_scores_is_refused(
    tmp_path: Path, function: str, got: str
) -> None:
    net = spec(function, (1, 4, 4))
    with pytest.raises(ArchitectureError, match=rf"class scores .* but \S+ .*{got}"):
        load_model(net, stored(tmp_path, {}), allow=[net.architecture])


@pytest.mark.parametrize(
    ("wrapper", "told"),
    [
        ("module.{}", "module."),
        ("_orig_mod.{}", "_orig_mod."),
        ("model.{}", "model."),
        ("module._orig_mod.{}", "module._orig_mod."),
        ("state.net.{}", "state.net."),
    ],
)
def test_the_prefix_of_a_wrapper_is_named_and_taken_off(
    tmp_path: Path, wrapper: str, told: str
) -> None:
    wanted = nets.weights(nets.seeded(nets.small()))
    path = stored(tmp_path, {wrapper.format(name): value for name, value in wanted.items()})
    model = nets.small()
    assert told in (load_weights(model, path) or "")
    assert all(torch.equal(model.state_dict()[name], wanted[name]) for name in wanted)


def test_wrappers_of_parts_and_their_counters_are_taken_off(tmp_path: Path) -> None:
    wanted = nets.weights(nets.seeded(nets.small()))
    given = {name.replace(".", "._orig_mod."): value for name, value in wanted.items()}
    assert "_orig_mod." in (load_weights(nets.small(), stored(tmp_path, given)) or "")
    averaged = {f"module.{name}": value for name, value in wanted.items()}
    averaged["n_averaged"] = torch.tensor(5)
    assert "module." in (load_weights(nets.small(), stored(tmp_path, averaged)) or "")


def test_what_does_not_fit_behind_a_prefix_is_listed_without_it(tmp_path: Path) -> None:
    given = {f"module.{name}": value for name, value in nets.weights(nets.small(8)).items()}
    given["module.1.weight"] = torch.zeros(7, 144)
    with pytest.raises(WeightsError, match=r"1 tensors .* prefix module\. was taken") as caught:
        load_weights(nets.small(8), stored(tmp_path, given))
    assert [each["field"] for each in caught.value.errors] == ["1.weight"]


def test_weights_that_fit_keep_their_names(tmp_path: Path) -> None:
    wrapped = torch.nn.ModuleDict({"module": nets.small()})
    path = stored(tmp_path, dict(wrapped.state_dict()))
    assert load_weights(wrapped, path) is None
