"""An ONNX file and its data files, sent in one form, are kept as one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from api.onnx_upload import MAX_DATA_FILES
from jobs.artifacts import weights_name
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_models import nothing_is_left
from tests.api_tests.rest_tests.test_onnx_packing import saved
from tests.api_tests.rest_tests.test_problems import problem

DATA = "m.onnx.data"
Files = Sequence[tuple[str, bytes]]


def send(
    service: Service, model: bytes, data: Files, architecture: str = "onnx"
) -> httpx.Response:
    spec = {"name": "net", "architecture": architecture, "input_shape": [10]}
    files = [("weights", ("m.onnx", model)), *(("data", each) for each in data)]
    return service.client.post("/v1/models", data={"spec": json.dumps(spec)}, files=files)


def changed(path: Path, **entries: str) -> bytes:
    """The model with another place of its first weight."""
    proto = onnx.load(path, load_external_data=False)
    place = proto.graph.initializer[0].external_data
    for key, value in entries.items():
        (entry,) = [each for each in place if each.key == key] or [place.add(key=key)]
        entry.value = value
    return bytes(proto.SerializeToString())


def test_the_file_that_is_kept_holds_all_values(service: Service, tmp_path: Path) -> None:
    path = saved(tmp_path)
    response = send(service, path.read_bytes(), [(DATA, (tmp_path / DATA).read_bytes())])

    assert response.status_code == 202
    found = ModelProto.FromString(service.store.get(weights_name(response.json()["id"])))
    wanted = onnx.load(path)
    for one, other in zip(found.graph.initializer, wanted.graph.initializer, strict=True):
        assert not one.external_data
        assert one.name == other.name
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
    assert found.graph.node == wanted.graph.node


def test_names_are_looked_up_as_the_model_says_them(service: Service, tmp_path: Path) -> None:
    path = saved(tmp_path)
    model = changed(path, location="./parts//w.bin")
    data = (tmp_path / DATA).read_bytes()

    response = send(service, model, [("parts/w.bin", data), (f"./{DATA}", data)])

    assert response.status_code == 202


@pytest.mark.parametrize(
    ("names", "entries", "reason"),
    [
        ([], {}, "which did not come: with curl, -F 'data=@PATH;filename=m.onnx.data'"),
        (["other"], {}, "did not come"),
        ([DATA, "other"], {}, "no values lie in 'other'"),
        ([DATA, DATA], {}, "came twice"),
        ([DATA, f"./{DATA}"], {}, "came twice"),
        ([DATA, "../secret"], {}, "relative to its folder"),
        ([DATA, "/etc/passwd"], {}, "relative to its folder"),
        ([DATA], {"location": "../secret"}, "must lie in the folder of the ONNX file"),
        ([DATA], {"location": "/etc/passwd"}, "must lie in the folder of the ONNX file"),
        ([DATA], {"location": ""}, "must lie in the folder of the ONNX file"),
        ([DATA], {"length": "4000000"}, "must lie within m.onnx.data"),
        ([DATA], {"offset": "-1"}, "must lie within m.onnx.data"),
        ([DATA], {"offset": "x"}, "must be numbers"),
    ],
)
def test_other_data_files_are_refused_and_nothing_is_kept(
    service: Service, tmp_path: Path, names: list[str], entries: dict[str, str], reason: str
) -> None:
    path = saved(tmp_path)
    data = (tmp_path / DATA).read_bytes()

    response = send(service, changed(path, **entries), [(name, data) for name in names])

    assert reason in str(problem(response, 422, "invalid-onnx")["detail"])
    assert nothing_is_left(service)


def test_values_that_share_bytes_are_refused(service: Service, tmp_path: Path) -> None:
    """One data file must not become many."""
    proto = onnx.load(saved(tmp_path), load_external_data=False)
    for number in range(20):
        copy = proto.graph.initializer.add()
        copy.CopyFrom(proto.graph.initializer[0])
        copy.name = f"again{number}"
    data = [(DATA, (tmp_path / DATA).read_bytes())]

    response = send(service, proto.SerializeToString(), data)

    assert "some values share theirs" in str(problem(response, 422, "invalid-onnx")["detail"])


def test_data_files_come_with_an_onnx_file_alone(service: Service, tmp_path: Path) -> None:
    response = send(service, b"x" * 8, [(DATA, b"x")], "torchvision:resnet18")

    assert "the architecture onnx alone" in str(problem(response, 422, "invalid-request"))


def test_more_parts_than_a_form_may_have_are_refused(service: Service, tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = [(f"{number}.bin", b"x") for number in range(MAX_DATA_FILES + 2)]

    response = send(service, path.read_bytes(), data)

    assert response.status_code in (400, 413, 422)
    assert nothing_is_left(service)
