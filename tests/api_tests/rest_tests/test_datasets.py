"""Submitting, listing and reading data sets."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.auth import AccessSettings
from jobs.artifacts import archive_name
from jobs.queues import CHECK_DATASET
from tests.api_tests.rest_tests.conftest import ADMIN_KEY, Start
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_problems import problem

SPEC = {"name": "photos", "format": "image_folder"}


def packed(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("train/cat/1.png", b"x")
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tar.gz" else "w") as tar:
            tar.addfile(tarfile.TarInfo("train"))
    return buffer.getvalue()


def upload(service: Service, archive: bytes, **changes: Any) -> httpx.Response:
    form = {"spec": json.dumps({**SPEC, **changes})}
    return service.client.post("/v1/datasets", data=form, files={"archive": ("a", archive)})


def test_a_path_on_the_server_is_submitted_as_json(service: Service) -> None:
    response = service.client.post("/v1/datasets", json={**SPEC, "path": "/data/photos"})

    assert response.status_code == 202
    dataset = response.json()
    assert response.headers["location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["state"], dataset["archive_digest"]) == ("checking", None)
    assert service.dispatch.sent == [(CHECK_DATASET, dataset["id"])]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_is_uploaded_beside_the_spec(service: Service, kind: str) -> None:
    archive = packed(kind)
    response = upload(service, archive)

    assert response.status_code == 202
    assert service.store.get(archive_name(response.json()["id"])) == archive
    assert response.json()["archive_digest"]


def test_a_file_that_is_no_archive_is_refused_and_nothing_is_written(service: Service) -> None:
    problem(upload(service, b"not an archive"), 422, "invalid-archive")

    assert service.client.get("/v1/datasets").json()["items"] == []
    assert not list(service.settings.home.glob("artifacts/datasets/*"))


def test_a_spec_without_path_or_archive_is_refused(service: Service) -> None:
    for response in (
        service.client.post("/v1/datasets", json=SPEC),
        service.client.post(
            "/v1/datasets", data={"spec": json.dumps(SPEC)}, files={"other": ("o", b"")}
        ),
    ):
        assert "archive uploaded beside" in str(problem(response, 422, "invalid-request"))


def test_an_archive_beside_a_path_is_refused(service: Service) -> None:
    response = upload(service, packed("zip"), path="/data")

    assert "archive must not come beside" in str(problem(response, 422, "invalid-request"))


def test_a_form_without_spec_is_refused(service: Service) -> None:
    response = service.client.post("/v1/datasets", files={"archive": ("a", packed("zip"))})

    assert "spec must be given" in str(problem(response, 422, "invalid-request"))


def test_another_kind_of_body_is_refused(service: Service) -> None:
    response = service.client.post("/v1/datasets", content="a=b")

    assert "application/json or multipart" in str(problem(response, 415, "unsupported-media-type"))


def test_a_second_data_set_of_one_name_is_refused(service: Service) -> None:
    assert upload(service, packed("zip")).status_code == 202

    problem(upload(service, packed("zip")), 409, "name-taken")
    assert len(list(service.settings.home.glob("artifacts/datasets/*"))) == 1


def test_a_function_must_be_allowed(start: Start) -> None:
    spec = {"name": "made", "format": "python", "function": "python:shop.data:small"}
    with start() as service:
        response = service.client.post("/v1/datasets", json=spec)
        assert "--allow python:shop.data:small" in str(
            problem(response, 422, "function-not-allowed")
        )
    with start(allow="python:shop.data:small") as service:
        assert service.client.post("/v1/datasets", json=spec).status_code == 202


def test_data_sets_are_found_by_id_and_name_and_listed(service: Service) -> None:
    dataset = upload(service, packed("zip")).json()

    assert service.client.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    assert service.client.get("/v1/datasets/photos").json() == dataset
    assert service.client.get("/v1/datasets").json() == {"items": [dataset], "next": None}
    problem(service.client.get("/v1/datasets/other"), 404, "not-found")


def test_with_keys_a_path_must_lie_under_a_data_root(start: Start, tmp_path: Path) -> None:
    access = AccessSettings(auth="on", admin_key=ADMIN_KEY)
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to("/etc/hostname")
    with start(access, data_roots=(root,)) as service:
        service.client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        answers = set()
        for path in ("/etc/hostname", "/etc/no-such-file", "/proc/self/mem", f"{root}/link"):
            response = service.client.post("/v1/datasets", json={**SPEC, "path": path})
            detail = str(problem(response, 422, "path-not-allowed"))
            answers.add(detail.replace(path, "PATH"))
        assert len(answers) == 1
        assert "--data-root DIR" in answers.pop()
        accepted = service.client.post("/v1/datasets", json={**SPEC, "path": f"{root}/any"})
        assert accepted.status_code == 202


def test_with_keys_and_no_data_root_data_comes_as_an_archive(guarded: Service) -> None:
    refused = guarded.client.post("/v1/datasets", json={**SPEC, "path": "/data"})
    assert "(none so far)" in str(problem(refused, 422, "path-not-allowed"))
    assert upload(guarded, packed("zip")).status_code == 202


def test_a_spec_may_come_as_a_file(service: Service) -> None:
    files: dict[str, Any] = {
        "spec": ("spec.json", json.dumps(SPEC)),
        "archive": ("a.zip", packed("zip")),
    }

    assert service.client.post("/v1/datasets", files=files).status_code == 202


def test_an_archive_that_comes_as_text_is_refused_in_words(service: Service) -> None:
    form = {"spec": (None, json.dumps(SPEC)), "archive": (None, "photos.zip")}
    answer = service.client.post("/v1/datasets", files=form)

    assert "-F archive=@PATH" in str(problem(answer, 422, "invalid-request")["detail"])
