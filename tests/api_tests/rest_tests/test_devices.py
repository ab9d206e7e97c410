"""Enrolment, listing, draining and revoking of devices."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx

from api.auth import AccessSettings
from api.broker import device_url
from jobs.columns import utc_now
from jobs.repository import devices, jobs, pools, requests
from latency_probes.messages import Capabilities, Enrolment, EnrolmentReply, RuntimeInfo
from tests.api_tests.rest_tests.conftest import Start
from tests.api_tests.rest_tests.rows import new_device, new_job
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_problems import problem
from tests.jobs_tests.builders import make_request

CAPABILITIES = Capabilities(
    cpu="a processor",
    cores=4,
    memory_mb=4096,
    os="Linux",
    hostname="board",
    runtimes={"onnxruntime": RuntimeInfo(version="1", providers=("CPUExecutionProvider",))},
)


def enrol(service: Service, token: str, **changes: Any) -> httpx.Response:
    message = Enrolment(
        token=token, name="board", labels={"room": "lab"}, capabilities=CAPABILITIES
    )
    return service.client.post(
        "/v1/devices/enrol", json={**message.model_dump(mode="json"), **changes}
    )


def token(service: Service) -> str:
    answer = service.client.post("/v1/devices/tokens")
    assert answer.status_code == 201
    text: str = answer.json()["token"]
    return text


def test_a_device_enrols_with_a_token_and_is_pending(service: Service) -> None:
    response = enrol(service, token(service))

    assert response.status_code == 201
    reply = EnrolmentReply.model_validate(response.json())
    device = service.client.get(f"/v1/devices/{reply.device_id}").json()
    assert (device["name"], device["state"], device["labels"]) == (
        "board",
        "pending",
        {"room": "lab"},
    )
    assert device["capabilities"]["runtimes"]["onnxruntime"]["version"] == "1"
    assert reply.redis_url == (f"redis://device-{reply.device_id}:{reply.secret}@127.0.0.1:1/0")


def test_only_the_hash_of_the_secret_is_kept(service: Service) -> None:
    reply = enrol(service, token(service)).json()

    assert reply["secret"].encode() not in (service.settings.home / "secateur.db").read_bytes()
    assert "secret" not in service.client.get("/v1/devices").text
    with service.rows() as session:
        assert devices.verify(session, reply["device_id"], reply["secret"]) is not None


def test_a_token_serves_once(service: Service) -> None:
    text = token(service)
    enrol(service, text)

    problem(enrol(service, text), 403, "enrolment-refused")
    problem(enrol(service, "unknown"), 403, "enrolment-refused")
    assert len(service.client.get("/v1/devices").json()["items"]) == 1


def test_an_expired_token_is_refused(service: Service) -> None:
    with service.rows() as session:
        text = devices.create_token(session, utc_now() - timedelta(seconds=1))

    problem(enrol(service, text), 403, "enrolment-refused")


def test_the_life_of_a_token_can_be_chosen(service: Service) -> None:
    answer = service.client.post("/v1/devices/tokens", json={"minutes": 0})

    assert "minutes must be >= 1" in str(problem(answer, 422, "invalid-request")["detail"])
    assert service.client.post("/v1/devices/tokens", json={"minutes": 5}).status_code == 201


def test_a_malformed_enrolment_leaves_the_token_unused(service: Service) -> None:
    text = token(service)

    problem(enrol(service, text, name="no spaces allowed"), 422, "invalid-request")
    assert enrol(service, text).status_code == 201


def test_the_broker_address_for_devices_can_differ(start: Start) -> None:
    access = AccessSettings(device_redis_url="rediss://broker.example:6380/1")
    with start(access) as service:
        reply = enrol(service, token(service)).json()

        user = f"device-{reply['device_id']}"
        assert reply["redis_url"] == f"rediss://{user}:{reply['secret']}@broker.example:6380/1"


def test_our_own_password_never_reaches_a_device() -> None:
    url = device_url("redis://default:our-password@127.0.0.1:7000/0", "dev_1", "theirs")

    assert url == "redis://device-dev_1:theirs@127.0.0.1:7000/0"


def test_a_device_is_drained_resumed_and_revoked(service: Service) -> None:
    device_id, _ = new_device(service)
    path = f"/v1/devices/{device_id}"

    assert service.client.post(f"{path}/drain").json()["drain_requested"] is True
    assert service.client.post(f"{path}/resume").json()["drain_requested"] is False
    assert service.client.post(f"{path}/revoke").json()["state"] == "revoked"
    assert service.client.post(f"{path}/revoke").json()["state"] == "revoked"
    for verb in ("drain", "resume"):
        problem(service.client.post(f"{path}/{verb}"), 409, "device-revoked")


def test_an_unknown_device_is_404(service: Service) -> None:
    problem(service.client.get("/v1/devices/dev_none"), 404, "not-found")
    for verb in ("drain", "resume", "revoke"):
        problem(service.client.post(f"/v1/devices/dev_none/{verb}"), 404, "not-found")


def test_device_read_alone_tells_what_became_of_it_in_pools(service: Service) -> None:
    device_id, _ = new_device(service)
    job_id, data = new_job(service), {"reason": "it drifted", "asked_again": 3}
    with service.rows() as session:
        device = devices.find(session, device_id)
        job = jobs.find(session, job_id)
        assert device is not None
        assert job is not None
        request = make_request(session, job, pools.join_purpose(device_id))
        requests.assign(session, request.id, device_id, utc_now(), 30.0)
        pools.note(session, job_id, pools.ASIDE, device, data, utc_now())
    (told,) = service.client.get(f"/v1/devices/{device_id}").json()["pools"]
    assert (told["job"], told["kind"], told["reason"]) == (job_id, "device_aside", "it drifted")
    (listed,) = service.client.get("/v1/devices").json()["items"]
    assert listed["pools"] == []
