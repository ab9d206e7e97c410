"""Every error is a problem document that says what to change."""

from __future__ import annotations

import httpx
import pytest
from sqlalchemy import text

from jobs.errors import ArtifactDamaged, IllegalTransition, JobsError
from tests.api_tests.rest_tests.rows import job_with_file
from tests.api_tests.rest_tests.service import Service


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, object]:
    """The problem document, checked to be one."""
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    assert (response.status_code, document["status"]) == (status, status)
    assert document["type"] == f"urn:secateur:problem:{kind}"
    assert document["title"]
    assert document["detail"]
    return document


def test_an_unknown_address_is_a_problem(service: Service) -> None:
    problem(service.client.get("/v2/anything"), 404, "not-found")


def test_a_wrong_method_is_a_problem_that_names_the_right_ones(service: Service) -> None:
    response = service.client.delete("/v1/jobs")

    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"]


def test_a_body_that_is_not_json_is_a_problem(service: Service) -> None:
    headers = {"Content-Type": "application/json"}
    response = service.client.post("/v1/jobs", content=b"{", headers=headers)

    assert "must be JSON" in str(problem(response, 422, "invalid-request")["detail"])


def test_every_wrong_field_is_named_with_what_it_must_be(service: Service) -> None:
    spec = {"model": "net", "budget": {"ratio": 0}, "colour": "red"}
    document = problem(service.client.post("/v1/jobs", json=spec), 422, "invalid-request")

    assert document["errors"] == [
        {"field": "dataset", "message": "dataset must be given, but got nothing"},
        {"field": "budget.ratio", "message": "budget.ratio must be > 0, but got 0"},
        {"field": "colour", "message": "colour must not be given: there is no such field"},
    ]


def test_a_wrong_query_parameter_is_named(service: Service) -> None:
    document = problem(service.client.get("/v1/jobs?limit=0"), 422, "invalid-request")

    assert document["errors"] == [{"field": "limit", "message": "limit must be >= 1, but got '0'"}]


def test_an_unknown_cursor_is_a_wrong_field(service: Service) -> None:
    document = problem(service.client.get("/v1/models?after=mdl_none"), 422, "invalid-request")

    assert "after must be the id of an entry" in str(document["detail"])


def test_a_database_that_refuses_is_a_problem_to_retry(service: Service) -> None:
    with service.rows() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO away"))

    response = service.client.get("/v1/jobs")

    problem(response, 503, "database-unavailable")
    assert response.headers["retry-after"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (IllegalTransition("state must be legal"), 409, "illegal-transition"),
        (ArtifactDamaged("secret detail"), 500, "internal-error"),
        (JobsError("secret detail"), 500, "internal-error"),
        (RuntimeError("secret detail"), 500, "internal-error"),
    ],
)
def test_errors_from_within_tell_no_internals(
    service: Service, error: Exception, status: int, kind: str
) -> None:
    def refuse(identifier: str) -> None:
        raise error

    service.dispatch.watch = refuse
    spec = '{"name": "d", "format": "idx", "path": "/d"}'
    headers = {"Content-Type": "application/json"}

    response = service.client.post("/v1/datasets", content=spec, headers=headers)

    assert "secret" not in response.text
    problem(response, status, kind)


def test_a_missing_file_of_a_known_artifact_is_gone(service: Service) -> None:
    job_id = job_with_file(service, "plan.json", b"{}")
    service.store.remove(f"jobs/{job_id}/plan.json")

    response = service.client.get(f"/v1/jobs/{job_id}/artifacts/plan.json")

    problem(response, 410, "artifact-gone")


def test_a_store_that_is_away_is_asked_again_later(service: Service) -> None:
    job_id = job_with_file(service, "plan.json", b"{}")
    folder = service.settings.home / "artifacts" / "jobs"
    folder.rename(folder.with_name("away"))
    folder.write_text("not a folder")

    response = service.client.get(f"/v1/jobs/{job_id}/artifacts/plan.json")

    problem(response, 503, "store-unavailable")
    assert response.headers["retry-after"] == "3"
