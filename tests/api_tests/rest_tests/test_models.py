"""Submitting, listing and reading models."""

from __future__ import annotations

import json
import pickle
from typing import Any

import httpx
import pytest

from api.auth import AccessSettings
from jobs.artifacts import weights_name
from jobs.queues import CHECK_MODEL
from jobs.repository import models
from tests.api_tests.rest_tests.conftest import Start
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.tensors import safetensors
from tests.api_tests.rest_tests.test_problems import problem

SPEC = {"name": "net", "architecture": "torchvision:resnet18", "input_shape": [3, 32, 32]}


def submit(service: Service, weights: bytes | None = None, **changes: Any) -> httpx.Response:
    form = {"spec": json.dumps({**SPEC, **changes})}
    files = {"weights": ("weights.safetensors", safetensors() if weights is None else weights)}
    return service.client.post("/v1/models", data=form, files=files)


def nothing_is_left(service: Service) -> bool:
    return service.client.get("/v1/models").json()["items"] == [] and not list(
        service.settings.home.glob("artifacts/**/*.safetensors")
    )


def test_a_model_is_stored_and_sent_to_be_checked(service: Service) -> None:
    response = submit(service)

    assert response.status_code == 202
    model = response.json()
    assert response.headers["location"] == f"/v1/models/{model['id']}"
    assert model["state"] == "checking"
    assert service.store.get(weights_name(model["id"])) == safetensors()
    assert service.dispatch.sent == [(CHECK_MODEL, model["id"])]


def test_the_check_is_sent_only_after_the_commit(service: Service) -> None:
    committed = []

    def look(identifier: str) -> None:
        with service.services.reading() as session:
            committed.append(models.find(session, identifier) is not None)

    service.dispatch.watch = look
    submit(service)

    assert committed == [True]


def test_a_model_is_found_by_id_and_by_name(service: Service) -> None:
    model = submit(service).json()

    assert service.client.get(f"/v1/models/{model['id']}").json() == model
    assert service.client.get("/v1/models/net").json() == model
    problem(service.client.get("/v1/models/other"), 404, "not-found")


def test_a_second_model_of_one_name_is_refused_and_leaves_nothing(service: Service) -> None:
    first = submit(service).json()

    document = problem(submit(service), 409, "name-taken")

    assert "choose another name" in str(document["detail"])
    assert len(service.client.get("/v1/models").json()["items"]) == 1
    assert [path.parent.name for path in service.settings.home.glob("artifacts/models/*/*")] == [
        first["id"]
    ]


def test_an_unknown_architecture_scheme_is_refused(service: Service) -> None:
    document = problem(submit(service, architecture="keras:vgg"), 422, "invalid-request")

    assert "torchvision:name, timm:name" in str(document["detail"])
    assert nothing_is_left(service)


def test_a_function_off_the_allow_list_is_refused_with_the_way_to_allow_it(
    service: Service,
) -> None:
    document = problem(
        submit(service, architecture="python:os:system"), 422, "function-not-allowed"
    )

    assert "secateur up --allow python:os:system" in str(document["detail"])
    assert nothing_is_left(service)


def test_a_function_on_the_allow_list_is_accepted(start: Start) -> None:
    with start(allow="python:shop.nets:small") as service:
        assert submit(service, architecture="python:shop.nets:small").status_code == 202


def test_a_pickle_is_refused_and_nothing_is_written(service: Service) -> None:
    problem(submit(service, pickle.dumps([1])), 422, "unsafe-weights")

    assert nothing_is_left(service)
    assert service.dispatch.sent == []


def test_truncated_weights_are_refused_and_nothing_is_written(service: Service) -> None:
    problem(submit(service, safetensors()[:-3]), 422, "invalid-weights")

    assert nothing_is_left(service)


def test_a_spec_that_is_no_json_is_refused(service: Service) -> None:
    response = service.client.post("/v1/models", data={"spec": "{"}, files={"weights": b"x"})

    assert "must be JSON" in str(problem(response, 422, "invalid-request")["detail"])


def test_missing_parts_are_named(service: Service) -> None:
    document = problem(service.client.post("/v1/models"), 422, "invalid-request")

    assert [error["field"] for error in document["errors"]] == ["spec", "weights"]  # type: ignore[attr-defined]


def test_an_upload_over_the_limit_is_refused_while_it_is_read(start: Start) -> None:
    with start(AccessSettings(max_upload_mb=1)) as service:
        response = submit(service, b"\0" * 2_000_000)

        assert "SECATEUR_MAX_UPLOAD_MB" in str(
            problem(response, 413, "content-too-large")["detail"]
        )


def test_an_onnx_file_is_taken_by_its_first_bytes(service: Service) -> None:
    form = {"spec": json.dumps({"name": "net", "architecture": "onnx"})}

    files = {"weights": b"\x08\x08\x3a\x00"}
    response = service.client.post("/v1/models", data=form, files=files)

    assert response.status_code == 202
    assert response.json()["spec"]["input_shape"] is None


def test_other_bytes_are_no_onnx_file(service: Service) -> None:
    for data in (b"", b"PK\x03\x04", pickle.dumps([1]), safetensors(), b"\x08\xff"):
        document = problem(submit(service, data, architecture="onnx"), 422, "invalid-onnx")
        assert "must be an ONNX file" in str(document["detail"])

    assert nothing_is_left(service)


def test_models_are_listed_page_by_page_newest_first(service: Service) -> None:
    for name in ("a", "b", "c"):
        submit(service, name=name)

    first = service.client.get("/v1/models?limit=2").json()
    second = service.client.get(f"/v1/models?limit=2&after={first['next']}").json()

    names = [item["name"] for item in first["items"] + second["items"]]
    assert (names, second["next"]) == (["c", "b", "a"], None)


def test_the_graph_is_the_stored_report(service: Service) -> None:
    model_id = submit(service).json()["id"]
    waiting = service.client.get("/v1/models/net/graph")
    with service.rows() as session:
        models.accept(session, model_id, {"groups": []})

    problem(waiting, 409, "still-checking")
    assert service.client.get("/v1/models/net/graph").json() == {"groups": []}


def test_the_graph_of_a_rejected_model_is_its_problem(service: Service) -> None:
    model_id = submit(service).json()["id"]
    found = {"type": "urn:x", "title": "T", "status": 422, "detail": "head.weight is missing"}
    with service.rows() as session:
        models.reject(session, model_id, found)

    response = service.client.get("/v1/models/net/graph")

    assert response.status_code == 409
    assert response.json()["type"] == "urn:x"
    assert "head.weight is missing" in response.json()["detail"]
    assert response.json()["cause"] == found


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", "text/plain"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
def test_a_spec_may_come_as_a_file(service: Service, kind: str, before: bytes) -> None:
    document = before + json.dumps(SPEC).encode()
    files: dict[str, Any] = {"spec": ("spec.json", document, kind), "weights": safetensors()}

    assert service.client.post("/v1/models", files=files).status_code == 202


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "must be JSON"), (b"\xff\xfe{", "UTF-8"), (b" " * 300_000, "at most 256 KiB")],
)
def test_a_file_that_is_no_spec_is_refused_in_words(
    service: Service, content: bytes, words: str
) -> None:
    files: dict[str, Any] = {"spec": ("spec.json", content), "weights": safetensors()}
    response = service.client.post("/v1/models", files=files)

    assert words in str(problem(response, 422, "invalid-request")["detail"])


def test_weights_that_come_as_text_are_refused_in_words(service: Service) -> None:
    form = {"spec": (None, json.dumps(SPEC)), "weights": (None, "w.safetensors")}
    detail = str(problem(service.client.post("/v1/models", files=form), 422, "invalid-request"))

    assert "weights must be a file, but got text: with curl, -F weights=@PATH" in detail
