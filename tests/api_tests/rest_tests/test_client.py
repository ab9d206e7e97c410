"""The typed client and the routes agree: every call of the client is answered as it expects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.client import ApiProblem, Client
from jobs.repository import candidates, events, models
from jobs.states import JobState
from jobs.status import transition
from tests.api_tests.rest_tests.rows import job_with_file, new_device, new_job
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.tensors import safetensors

MODEL = {"name": "net", "architecture": "torchvision:resnet18", "input_shape": [3, 32, 32]}
JOB = {"model": "net", "dataset": "photos", "budget": {"ratio": 0.6}}


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(str(service.client.base_url)) as client:
        yield client


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors())
    return path


def test_a_model_and_a_data_set_are_added_and_read(
    service: Service, client: Client, weights: Path
) -> None:
    model = client.models.add(MODEL, weights)
    dataset = client.datasets.add({"name": "photos", "format": "idx", "path": "/data"})
    with service.rows() as session:
        models.accept(session, model.id, {"groups": []})

    assert client.models.wait("net").state == "ready"
    assert client.models.graph("net") == {"groups": []}
    assert [found.id for found in client.models.list()] == [model.id]
    assert client.datasets.get("photos") == dataset


def test_an_archive_is_uploaded(client: Client, tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    archive.write_bytes(b"PK\x03\x04")

    dataset = client.datasets.add({"name": "photos", "format": "image_folder"}, archive)

    assert dataset.archive_digest is not None


def test_a_job_is_submitted_once_and_stopped_and_cancelled(client: Client, weights: Path) -> None:
    client.models.add(MODEL, weights)
    client.datasets.add({"name": "photos", "format": "idx", "path": "/data"})

    job = client.jobs.submit(JOB, idempotency_key="k")

    assert client.jobs.submit(JOB, idempotency_key="k").id == job.id
    assert client.jobs.stop(job.id).stop_requested
    assert client.jobs.cancel(job.id).cancel_requested
    assert [found.id for found in client.jobs.list()] == [job.id]


def test_a_refusal_carries_its_problem_document(client: Client) -> None:
    with pytest.raises(ApiProblem, match="model must name a known model") as caught:
        client.jobs.submit(JOB)

    assert (caught.value.status, caught.value.document["errors"][0]["field"]) == (422, "model")


def test_a_long_log_is_read_whole(service: Service, client: Client) -> None:
    job_id = new_job(service)
    with service.rows() as session:
        for _ in range(450):
            events.append(session, job_id, "tick", {})

    numbers = [event.number for event in client.jobs.events(job_id, after=1)]

    assert numbers == list(range(2, 452))


def test_a_tree_and_a_file_are_read(service: Service, client: Client, tmp_path: Path) -> None:
    job_id = job_with_file(service, "plan.json", b"{}")
    node = {"digest": "d", "parent": None, "level": 1, "origin": "cut", "kept": True}
    with service.rows() as session:
        candidates.save(session, job_id, [node])

    (artifact,) = client.jobs.artifacts(job_id)
    client.jobs.download(job_id, artifact, tmp_path / "plan.json")

    assert [candidate.digest for candidate in client.jobs.tree(job_id).items] == ["d"]
    assert client.jobs.tree(job_id, after=0).items == []
    assert client.jobs.candidate(job_id, "d").widths == {}
    assert (tmp_path / "plan.json").read_bytes() == b"{}"


def test_a_job_is_waited_for(service: Service, client: Client) -> None:
    job_id = new_job(service)
    with service.rows() as session:
        transition(session, job_id, JobState.QUEUED, JobState.CANCELLED, 1)

    assert client.jobs.wait(job_id).state == "cancelled"


def test_devices_and_keys_are_managed(service: Service, client: Client) -> None:
    device_id, _ = new_device(service)

    assert client.devices.token().token
    assert client.devices.drain(device_id).drain_requested
    assert client.devices.revoke(device_id).state == "revoked"
    key = client.keys.create("me", ["read"])
    client.keys.revoke(key.id)
    assert [found.revoked_at is not None for found in client.keys.list()] == [True]
