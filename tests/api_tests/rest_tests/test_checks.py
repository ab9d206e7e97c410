"""Checks of devices over HTTP: started once, listed, polled and cancelled."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.artifacts import skeleton_name
from jobs.checking import built_in
from jobs.columns import utc_now
from jobs.repository import checks, devices, requests, skeletons
from jobs.repository.measurements import Finding
from tests.api_tests.rest_tests.rows import new_device
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_problems import problem
from tests.jobs_tests.builders import REFERENCE, make_job, make_request


@pytest.fixture
def device_id(service: Service) -> str:
    return new_device(service)[0]


def start(service: Service, device_id: str, **body: Any) -> dict[str, Any]:
    response = service.client.post(f"/v1/devices/{device_id}/checks", json=body)
    assert response.status_code == 202, response.text
    view: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/checks/{view['id']}"
    return view


def measure_job(service: Service, device_id: str) -> None:
    """A job whose dense model the device has measured."""
    with service.rows() as session:
        request = make_request(session, make_job(session), "dense")
        held = requests.assign(session, request.id, device_id, utc_now(), 30)
        assert held is not None
        assert requests.complete(
            session, held.id, attempt=1, lease_token=str(held.lease_token), device_id=device_id,
            finding=Finding(ratio=1.0, raw={}),
        )  # fmt: skip


def test_without_a_job_the_model_of_the_package_is_measured(
    service: Service, device_id: str
) -> None:
    view = start(service, device_id)
    digest, model = built_in()
    assert (view["state"], view["workload"], view["skeleton_digest"]) == (
        "pending",
        "resnet20",
        digest,
    )
    assert view["progress"] == {"ended": 0, "of": 14}
    assert service.store.get(skeleton_name(digest)) == model
    with service.rows() as session:
        row = skeletons.find(session, digest)
    assert row is not None
    assert row.size == len(model)


def test_the_reference_that_the_device_measured_last_is_measured(
    service: Service, device_id: str
) -> None:
    measure_job(service, device_id)
    view = start(service, device_id, threads=2, quick=True)
    assert (view["workload"], view["skeleton_digest"]) == ("net", REFERENCE)
    assert view["target"]["threads"] == 2
    assert view["progress"]["of"] == 6


def test_a_model_is_measured_as_its_job_left_it(service: Service, device_id: str) -> None:
    measure_job(service, new_device(service, "other")[0])
    assert start(service, device_id, model="net")["skeleton_digest"] == REFERENCE


def test_a_model_without_a_job_has_nothing_to_measure(service: Service, device_id: str) -> None:
    with service.rows() as session:
        make_job(session)
    path = f"/v1/devices/{device_id}/checks"
    answer = problem(service.client.post(path, json={"model": "net"}), 409, "skeleton-unknown")
    assert "Submit one" in str(answer["detail"])
    problem(service.client.post(path, json={"model": "unknown"}), 422, "invalid-request")


def test_a_target_is_one_that_the_device_offers(service: Service) -> None:
    with service.rows() as session:
        token = devices.create_token(session, utc_now().replace(year=2100))
        runtimes = {
            "replay": {"version": "1", "providers": ["Recorded"]},
            "openvino": {"version": "1", "providers": ["CPU", "GPU"]},
        }
        enrolled = devices.enrol(
            session, token, name="board", labels={}, capabilities={"runtimes": runtimes},
            now=utc_now(),
        )  # fmt: skip
        assert enrolled is not None
        device_id = enrolled[0].id
    view = start(service, device_id)
    assert (view["target"]["runtime"], view["target"]["provider"]) == ("replay", "Recorded")
    service.client.post(f"/v1/checks/{view['id']}/cancel")
    view = start(service, device_id, runtime="openvino")
    assert view["target"]["provider"] == "CPU"
    service.client.post(f"/v1/checks/{view['id']}/cancel")
    view = start(service, device_id, runtime="openvino", provider="GPU")
    assert view["target"]["provider"] == "GPU"


def test_one_check_of_a_device_runs_at_a_time(service: Service, device_id: str) -> None:
    view = start(service, device_id)
    path = f"/v1/devices/{device_id}/checks"
    answer = problem(service.client.post(path), 409, "check-running")
    assert answer["check"] == view["id"]
    cancelled = service.client.post(f"/v1/checks/{view['id']}/cancel").json()
    assert (cancelled["state"], cancelled["error"]) == ("failed", "it was cancelled")
    assert service.client.post(path).status_code == 202


def test_a_repeated_start_gets_the_first_answer(service: Service, device_id: str) -> None:
    path, headers = f"/v1/devices/{device_id}/checks", {"Idempotency-Key": "once"}
    first = service.client.post(path, headers=headers)
    again = service.client.post(path, headers=headers)
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")


def test_checks_are_listed_newest_first_and_read(service: Service, device_id: str) -> None:
    first = start(service, device_id)["id"]
    with service.rows() as session:
        checks.finish(session, first, {"screening": 0.02}, utc_now())
    second = start(service, device_id)["id"]
    listed = service.client.get(f"/v1/devices/{device_id}/checks").json()
    assert [each["id"] for each in listed["items"]] == [second, first]
    view = service.client.get(f"/v1/checks/{first}").json()
    assert (view["state"], view["result"]) == ("done", {"screening": 0.02})


def test_unknown_things_are_404(service: Service) -> None:
    problem(service.client.get("/v1/checks/chk_none"), 404, "not-found")
    problem(service.client.post("/v1/checks/chk_none/cancel"), 404, "not-found")
    problem(service.client.get("/v1/devices/dev_none/checks"), 404, "not-found")
    problem(service.client.post("/v1/devices/dev_none/checks"), 404, "not-found")


def test_a_revoked_device_is_not_checked(service: Service, device_id: str) -> None:
    service.client.post(f"/v1/devices/{device_id}/revoke")
    answer = service.client.post(f"/v1/devices/{device_id}/checks")
    problem(answer, 409, "device-revoked")


def test_a_wrong_wish_is_422(service: Service, device_id: str) -> None:
    for body in ({"threads": 0}, {"runtime": "no spaces"}, {"runtime": "auto"}, {"pairs": 3}):
        answer = service.client.post(f"/v1/devices/{device_id}/checks", json=body)
        problem(answer, 422, "invalid-request")
