"""Keys, scopes, and where the service may listen."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from api.auth import (
    AccessSettings,
    BindError,
    bearer,
    check_bind,
    is_loopback,
    key_token,
    parse_token,
)
from jobs.columns import utc_now
from jobs.repository import keys
from tests.api_tests.rest_tests.conftest import ADMIN_KEY
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_problems import problem
from tests.jobs_tests.builders import make_dataset, make_model


def new_key(service: Service, *scopes: str, **changes: Any) -> dict[str, str]:
    """The headers of a fresh key with these scopes."""
    body = {"name": "k", "scopes": list(scopes), **changes}
    answer = service.client.post("/v1/keys", json=body)
    assert answer.status_code == 201
    return {"Authorization": f"Bearer {answer.json()['key']}"}


def test_on_loopback_no_key_is_needed(service: Service) -> None:
    assert service.client.get("/v1/jobs").status_code == 200
    assert service.client.get("/v1/keys").status_code == 200


def test_with_keys_on_a_request_without_one_is_refused(guarded: Service) -> None:
    del guarded.client.headers["Authorization"]
    response = guarded.client.get("/v1/jobs")

    problem(response, 401, "key-required")
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_health_and_the_page_need_no_key(guarded: Service) -> None:
    del guarded.client.headers["Authorization"]

    for path in ("/healthz", "/", "/assets/main.js"):
        assert guarded.client.get(path).status_code == 200
    assert guarded.client.get("/metrics").status_code == 401


@pytest.mark.parametrize(
    "text", ["sct_", "sct_key_secret", "nonsense", "sct_operator_0123", ADMIN_KEY + "0"]
)
def test_an_unknown_key_is_refused(guarded: Service, text: str) -> None:
    headers = {"Authorization": f"Bearer {text}"}

    problem(guarded.client.get("/v1/jobs", headers=headers), 401, "key-refused")


def test_each_scope_opens_its_own_doors(guarded: Service) -> None:
    doors = {
        "submit": ("POST", "/v1/jobs/job_none/stop"),
        "devices": ("POST", "/v1/devices/tokens"),
        "admin": ("GET", "/v1/keys"),
    }
    for scope in ("read", "submit", "devices", "admin"):
        headers = new_key(guarded, scope)
        assert guarded.client.get("/v1/jobs", headers=headers).status_code == 200
        for needed, (method, path) in doors.items():
            response = guarded.client.request(method, path, headers=headers)
            assert (response.status_code != 403) == (scope in (needed, "admin"))


def test_a_missing_scope_is_named(guarded: Service) -> None:
    response = guarded.client.get("/v1/keys", headers=new_key(guarded, "read"))

    detail = problem(response, 403, "scope-required")["detail"]
    assert detail == "The key must have the scope 'admin', but it has read."


def test_a_revoked_key_is_refused_at_once(guarded: Service) -> None:
    headers = new_key(guarded, "read")
    key_id = guarded.client.get("/v1/keys").json()["items"][0]["id"]

    assert guarded.client.delete(f"/v1/keys/{key_id}").status_code == 204
    assert guarded.client.delete(f"/v1/keys/{key_id}").status_code == 204
    problem(guarded.client.get("/v1/jobs", headers=headers), 401, "key-refused")
    problem(guarded.client.delete("/v1/keys/key_none"), 404, "not-found")


def test_an_expired_key_is_refused(guarded: Service) -> None:
    past = utc_now() - timedelta(seconds=1)
    with guarded.rows() as session:
        key, secret = keys.create(session, "old", ["read"], expires_at=past)
    headers = {"Authorization": f"Bearer {key_token(key.id, secret)}"}

    problem(guarded.client.get("/v1/jobs", headers=headers), 401, "key-refused")


def test_an_expiry_must_lie_ahead(guarded: Service) -> None:
    body = {"name": "k", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00"}
    response = guarded.client.post("/v1/keys", json=body)

    assert "must be in the future" in str(problem(response, 422, "invalid-request")["detail"])


def test_a_key_is_shown_once_and_kept_as_a_hash(guarded: Service) -> None:
    headers = new_key(guarded, "read", expires_at="2999-01-01T00:00:00Z")
    secret = headers["Authorization"].rpartition("_")[2]

    listed = guarded.client.get("/v1/keys")

    assert secret not in listed.text
    assert "sha256" not in listed.text
    assert secret.encode() not in (guarded.settings.home / "secateur.db").read_bytes()


def test_the_last_use_is_noted(guarded: Service) -> None:
    headers = new_key(guarded, "read")
    before = guarded.client.get("/v1/keys").json()["items"][0]["last_used_at"]
    for _ in range(3):
        guarded.client.get("/v1/jobs", headers=headers)
    after = guarded.client.get("/v1/keys").json()["items"][0]["last_used_at"]

    assert before is None
    assert after is not None


def test_an_unknown_scope_is_refused(guarded: Service) -> None:
    response = guarded.client.post("/v1/keys", json={"name": "k", "scopes": ["root"]})

    assert "scopes.0 must be" in str(problem(response, 422, "invalid-request")["detail"])


def test_an_idempotency_key_belongs_to_its_owner(guarded: Service) -> None:
    with guarded.rows() as session:
        make_model(session)
        make_dataset(session)
    spec = {"model": "net", "dataset": "photos", "budget": {"ratio": 0.6}}
    ids = {
        guarded.client.post(
            "/v1/jobs", json=spec, headers={**new_key(guarded, "submit"), "Idempotency-Key": "k"}
        ).json()["id"]
        for _ in range(2)
    }

    assert len(ids) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_loopback_may_be_bound_without_keys(host: str) -> None:
    check_bind(host, AccessSettings())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_other_addresses_need_keys(host: str) -> None:
    with pytest.raises(BindError, match="SECATEUR_AUTH=on"):
        check_bind(host, AccessSettings())
    check_bind(host, AccessSettings(auth="on", admin_key=ADMIN_KEY))


@pytest.mark.parametrize("key", ["admin", "sct_a_b", "x" * 40])
def test_an_admin_key_must_have_the_form_and_length_of_a_key(key: str) -> None:
    with pytest.raises(ValidationError, match="SECATEUR_ADMIN_KEY must be"):
        AccessSettings(admin_key=key)


def test_a_token_is_taken_apart_at_its_last_underscore() -> None:
    token = parse_token("sct_key_12_abc", "sct_")

    assert token is not None
    assert (token.owner, token.secret) == ("key_12", "abc")
    assert parse_token("scd_x_y", "sct_") is None
    assert parse_token("sct_x", "sct_") is None


def test_only_bearer_headers_hold_a_token() -> None:
    assert bearer("bearer  abc ") == "abc"
    assert [bearer(text) for text in (None, "", "Bearer", "Basic abc")] == [None] * 4


def test_names_that_only_look_like_loopback_are_not() -> None:
    assert not any(
        map(is_loopback, ["localhost.example.org", "127.0.0.1.example.org", "10.0.0.1"])
    )
