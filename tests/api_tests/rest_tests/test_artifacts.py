"""The files of a job, and skeletons for devices."""

from __future__ import annotations

import hashlib

from jobs.artifacts import skeleton_name
from jobs.repository import devices, skeletons
from tests.api_tests.rest_tests.rows import job_with_file, new_device
from tests.api_tests.rest_tests.service import Service


def test_files_are_listed_by_name(service: Service) -> None:
    job_id = job_with_file(service, "plan.json", b"{}")

    listing = service.client.get(f"/v1/jobs/{job_id}/artifacts").json()

    assert listing["next"] is None
    assert [(item["name"], item["size"]) for item in listing["items"]] == [("plan.json", 2)]


def test_a_file_is_served_whole_with_its_hash_as_etag(service: Service) -> None:
    data = bytes(range(256)) * 9000
    job_id = job_with_file(service, "model.onnx", data)

    response = service.client.get(f"/v1/jobs/{job_id}/artifacts/model.onnx")

    assert response.content == data
    assert response.headers["content-length"] == str(len(data))
    assert response.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert response.headers["content-disposition"] == 'attachment; filename="model.onnx"'


def test_a_known_file_is_not_sent_again(service: Service) -> None:
    job_id = job_with_file(service, "plan.json", b"{}")
    path = f"/v1/jobs/{job_id}/artifacts/plan.json"
    etag = service.client.get(path).headers["etag"]

    response = service.client.get(path, headers={"If-None-Match": etag})

    assert (response.status_code, response.content) == (304, b"")


def test_a_report_page_is_shown_in_a_sandbox(service: Service) -> None:
    job_id = job_with_file(service, "report.html", b"<script>alert(1)</script>")

    headers = service.client.get(f"/v1/jobs/{job_id}/artifacts/report.html").headers

    assert headers["content-type"].startswith("text/html")
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"


def test_unknown_jobs_and_files_are_404(service: Service) -> None:
    job_id = job_with_file(service, "plan.json", b"{}")

    assert service.client.get("/v1/jobs/job_none/artifacts").status_code == 404
    assert service.client.get(f"/v1/jobs/{job_id}/artifacts/none").status_code == 404
    assert service.client.get(f"/v1/jobs/{job_id}/artifacts/..%2F..%2Fx").status_code == 404


def test_a_device_fetches_skeletons_with_its_own_token(service: Service) -> None:
    data = b"onnx" * 100
    digest = hashlib.sha256(data).hexdigest()
    with service.rows() as session:
        stored = service.store.put(skeleton_name(digest), data)
        skeletons.add(session, digest, stored.size, stored.location)
    bearer = {"Authorization": f"Bearer {new_device(service)[1]}"}

    assert service.client.get(f"/v1/skeletons/{digest}", headers=bearer).content == data
    assert service.client.get(f"/v1/skeletons/{'0' * 64}", headers=bearer).status_code == 404


def test_skeletons_are_refused_to_others_and_to_revoked_devices(service: Service) -> None:
    device_id, revoked = new_device(service)
    with service.rows() as session:
        devices.revoke(session, device_id)

    for bearer in ("", "Bearer", f"Bearer {revoked}", "Bearer scd_x_y", f"Basic {revoked}"):
        headers = {"Authorization": bearer} if bearer else {}
        response = service.client.get(f"/v1/skeletons/{'0' * 64}", headers=headers)
        assert response.status_code == 401
        assert response.json()["type"].endswith("device-token-required")
