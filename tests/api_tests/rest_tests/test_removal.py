"""DELETE on models, data sets, jobs and devices; names that are free again; uploads that fail."""

from __future__ import annotations

from functools import partial

import httpx
import pytest
from sqlalchemy import text

from api.routes.uploads import unless_kept
from jobs.artifacts import job_folder, model_folder
from jobs.repository import datasets, devices, models
from jobs.states import DeviceState, InputState, JobState
from jobs.status import transition
from jobs.tables import Model
from tests.api_tests.rest_tests.rows import job_with_file, new_device, new_job
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_datasets import packed, upload
from tests.api_tests.rest_tests.test_models import submit
from tests.api_tests.rest_tests.test_problems import problem

# A commit fails when a row that came with it refers to nothing.
FAILING_COMMITS = (
    "CREATE TABLE witness (id REFERENCES models (id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TRIGGER break_models AFTER INSERT ON models"
    " BEGIN INSERT INTO witness VALUES ('nobody'); END",
    "CREATE TRIGGER break_datasets AFTER INSERT ON datasets"
    " BEGIN INSERT INTO witness VALUES ('nobody'); END",
)
KINDS = ("models", "datasets", "jobs", "devices")


def upload_archive(service: Service) -> httpx.Response:
    return upload(service, packed("zip"))


def end(service: Service, job_id: str) -> None:
    with service.rows() as session:
        transition(session, job_id, JobState.QUEUED, JobState.CANCELLED, 1)


def reject_all(service: Service) -> None:
    with service.rows() as session:
        for model in models.unchecked(session):
            models.reject(session, model.id, {"detail": "it does not fit"})
        for dataset in datasets.unchecked(session):
            datasets.reject(session, dataset.id, {"detail": "it holds no images"})


def test_a_model_and_its_files_are_removed_and_its_name_is_free(service: Service) -> None:
    first = submit(service).json()

    assert service.client.delete("/v1/models/net").status_code == 204

    assert service.store.folders("models") == []
    problem(service.client.delete("/v1/models/net"), 404, "not-found")
    problem(service.client.get(f"/v1/models/{first['id']}"), 404, "not-found")
    assert submit(service).status_code == 202


def test_a_data_set_is_removed_with_what_was_unpacked_of_it(service: Service) -> None:
    dataset_id = upload_archive(service).json()["id"]
    unpacked = service.settings.unpacked / dataset_id
    unpacked.mkdir(parents=True)

    assert service.client.delete(f"/v1/datasets/{dataset_id}").status_code == 204

    assert not unpacked.exists()
    assert service.store.folders("datasets") == []
    assert upload_archive(service).status_code == 202


def test_what_a_live_job_uses_is_refused_and_nothing_is_lost(service: Service) -> None:
    job_id = job_with_file(service, "plan.json", b"{}")

    for path in ("models/net", "datasets/photos", f"jobs/{job_id}"):
        document = problem(service.client.delete(f"/v1/{path}"), 409, "in-use")
        assert document["users"] == [job_id]
        assert service.client.get(f"/v1/{path}").status_code == 200
    assert service.client.get(f"/v1/jobs/{job_id}/artifacts/plan.json").content == b"{}"


def test_a_job_that_has_ended_outlives_its_model_and_then_goes_with_its_files(
    service: Service,
) -> None:
    job_id = job_with_file(service, "plan.json", b"{}")
    end(service, job_id)

    for path in ("models/net", "datasets/photos"):
        assert service.client.delete(f"/v1/{path}").status_code == 204
    assert service.client.get(f"/v1/jobs/{job_id}").json()["spec"]["model"] == "net"
    assert service.client.get(f"/v1/jobs/{job_id}/artifacts/plan.json").content == b"{}"
    assert [service.client.get(f"/v1/{kind}").json()["items"] for kind in KINDS[:2]] == [[], []]

    assert service.client.delete(f"/v1/jobs/{job_id}").status_code == 204
    problem(service.client.get(f"/v1/jobs/{job_id}"), 404, "not-found")
    assert not list(service.settings.home.glob(f"artifacts/{job_folder(job_id)}"))


def test_a_device_is_shut_out_and_shown_no_more(service: Service) -> None:
    device_id, bearer = new_device(service)

    assert service.client.delete(f"/v1/devices/{device_id}").status_code == 204

    problem(service.client.get(f"/v1/devices/{device_id}"), 404, "not-found")
    problem(service.client.delete(f"/v1/devices/{device_id}"), 404, "not-found")
    assert service.client.get("/v1/devices").json()["items"] == []
    headers = {"Authorization": f"Bearer {bearer}"}
    answer = service.client.get(f"/v1/skeletons/{'0' * 64}", headers=headers)
    problem(answer, 401, "device-token-required")
    with service.services.reading() as session:
        (device,) = devices.all_devices(session, removed=True)
    assert device.state == DeviceState.REMOVED


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_may_only_read_removes_nothing(guarded: Service, kind: str) -> None:
    body = {"name": "reader", "scopes": ["read"]}
    key = guarded.client.post("/v1/keys", json=body).json()["key"]
    headers = {"Authorization": f"Bearer {key}"}

    problem(guarded.client.delete(f"/v1/{kind}/x", headers=headers), 403, "scope-required")


def test_the_name_of_what_was_rejected_can_be_used_anew(service: Service) -> None:
    for send, kind in ((submit, "models"), (upload_archive, "datasets")):
        first = send(service).json()
        problem(send(service), 409, "name-taken")
        reject_all(service)

        second = send(service)

        assert second.status_code == 202
        assert second.json()["state"] == "checking"
        problem(service.client.get(f"/v1/{kind}/{first['id']}"), 404, "not-found")
        assert service.store.folders(kind) == [second.json()["id"]]


def test_a_name_that_looks_like_the_id_of_something_rejected_leaves_that_alone(
    service: Service,
) -> None:
    first = submit(service).json()
    reject_all(service)

    assert submit(service, name=first["id"]).status_code == 202

    assert service.client.get("/v1/models/net").json()["state"] == "rejected"


def test_a_job_that_waits_for_what_was_rejected_does_not_keep_its_name(service: Service) -> None:
    new_job(service)
    reject_all(service)

    assert submit(service).status_code == 202


def test_a_refused_commit_leaves_nothing_in_the_store(service: Service) -> None:
    with service.rows() as session:
        for statement in FAILING_COMMITS:
            session.execute(text(statement))

    for send, kind in ((submit, "models"), (upload_archive, "datasets")):
        assert send(service).status_code == 500
        assert service.client.get(f"/v1/{kind}").json()["items"] == []
        assert service.store.folders(kind) == []


def test_a_commit_whose_answer_was_lost_keeps_its_file(service: Service) -> None:
    kept, gone = submit(service).json()["id"], "mdl_gone"
    service.store.put(f"{model_folder(gone)}/weights.safetensors", b"x")

    for model_id in (kept, gone):
        find = partial(models.find, id_or_name=model_id)
        unless_kept(service.services, model_folder(model_id), find)()

    assert service.store.folders("models") == [kept]


def test_what_replaces_something_rejected_and_fails_leaves_that_as_it_was(
    service: Service,
) -> None:
    first = submit(service).json()
    reject_all(service)
    with service.rows() as session:
        for statement in FAILING_COMMITS:
            session.execute(text(statement))

    assert submit(service).status_code == 500

    with service.services.reading() as session:
        (model,) = session.query(Model).all()
    assert (model.id, model.state) == (first["id"], InputState.REJECTED)
    assert service.store.folders("models") == [first["id"]]
