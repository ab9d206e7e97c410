"""What no database can hold is refused with 422, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs import migrations
from jobs.errors import SpecError
from jobs.repository import events
from jobs.validation import MAX_VALUES, read_json
from tests.api_tests.rest_tests.conftest import Start
from tests.api_tests.rest_tests.rows import new_job
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.tensors import safetensors
from tests.api_tests.rest_tests.test_problems import problem
from tests.jobs_tests.conftest import empty_postgres
from tests.jobs_tests.postgres import postgres_server

JSON = {"Content-Type": "application/json"}
LATEST = "9999-12-31T23:59:59-23:59"
EARLIEST = "0001-01-01T00:00:00+14:00"


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres_server() as url:
        made = empty_postgres(url)
        migrations.upgrade(made)
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, start: Start, home: Path) -> Iterator[Service]:
    """A service on each kind of database."""
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{home}/secateur.db" if is_sqlite else request.getfixturevalue("postgres_url")
    with start(database_url=url) as service:
        yield service


def paths(service: Service) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = service.client.get("/openapi.json").json()["paths"]
    return found


def test_nul_in_a_path_or_a_query(either: Service) -> None:
    for path, operations in paths(either).items():
        for method in operations:
            for text in (path.replace("{", "%00{"), f"{path}?after=%00", f"{path}?x=1%00"):
                if "%00" in text:
                    problem(either.client.request(method, text), 422, "invalid-request")


@pytest.mark.parametrize("number", [2**31, 2**63, 2**64, 10**30, -1])
def test_an_event_number_that_no_column_holds(either: Service, number: int) -> None:
    path = f"/v1/jobs/{new_job(either)}/events"
    stream = {"Accept": "text/event-stream", "Last-Event-ID": str(number)}

    problem(either.client.get(f"{path}?after={number}"), 422, "invalid-request")
    problem(either.client.get(path, headers=stream), 422, "invalid-request")


def test_the_largest_event_number(either: Service) -> None:
    path = f"/v1/jobs/{new_job(either)}/events?after={events.MAX_NUMBER}"

    assert either.client.get(path).json()["items"] == []


BODIES = {
    "/v1/keys": [
        '{"name": "a\\u0000b", "scopes": ["read"]}',
        '{"name": "a\\ud800b", "scopes": ["read"]}',
        '{"name": "k", "scopes": ["re\\u0000ad"]}',
        '{"name": "k", "scopes": ["read"], "\\u0000": 1}',
        f'{{"name": "k", "scopes": ["read"], "expires_at": "{LATEST}"}}',
        f'{{"name": "k", "scopes": ["read"], "expires_at": "{EARLIEST}"}}',
        '{"name": "k", "scopes": ["read"], "expires_at": 1e18}',
        '{"name": "k", "scopes": ["read"], "expires_at": NaN}',
    ],
    "/v1/jobs": [
        '{"model": "\\u0000", "dataset": "d", "budget": {"ratio": 0.5}}',
        '{"model": "m", "dataset": "d", "budget": {"ratio": NaN}}',
        '{"model": "m", "dataset": "d", "budget": {"ratio": 0.5}, '
        '"target": {"device": "label:a=\\u0000"}}',
        '{"model": "m", "dataset": "d", "budget": {"ratio": 1e999}}',
        "[" * 100_000,
        '{"model":' + "[" * 5000 + "]" * 5000 + "}",
        "9" * 6000,
    ],
    "/v1/datasets": [
        '{"name": "d", "format": "npz", "path": "/\\u0000"}',
        '{"name":"d","format": "python", "function": "python:a:b", "kwargs": {"a": ["\\u0000"]}}',
        '{"name": "d", "format": "python", "function": "python:a:b", "kwargs": {"\\u0000": 1}}',
        '{"name": "d", "format": "python", "function": "python:a:b", "kwargs": {"a": Infinity}}',
        '{"name": "d", "format": "npz", "path": "/x", "mean": [NaN]}',
    ],
    "/v1/devices/tokens": ['{"minutes": 99999999999999999999}', '{"minutes": 1e400}'],
    "/v1/devices/enrol": [
        '{"token": "\\u0000", "name": "d", "capabilities": {"cores": 1, "runtimes": {}}}',
        '{"token": "t", "name": "d", "capabilities": {"cores": 1, "runtimes": {}, '
        '"cpu": "\\u0000"}}',
        '{"token": "t", "name": "d", "labels": {"a": "\\u0000"}, '
        '"capabilities": {"cores": 1, "runtimes": {}}}',
    ],
}


def test_documents_that_no_column_holds(either: Service) -> None:
    for path, documents in BODIES.items():
        for document in documents:
            answer = either.client.post(path, content=document, headers=JSON)
            problem(answer, 422, "invalid-request")


@pytest.mark.parametrize("charset", ["utf-8", "unicode_escape"])
def test_specs_in_forms_that_no_column_holds(either: Service, charset: str) -> None:
    spec = '{"name": "net", "architecture": "timm:net", "input_shape": [1], "kwargs": {"a": "%s"}}'
    head = f"multipart/form-data; boundary=x; charset={charset}"
    for text in ("\\u0000", "\\ud800"):
        parts = [
            b'--x\r\nContent-Disposition: form-data; name="spec"\r\n\r\n',
            (spec % text).encode(),
            b'\r\n--x\r\nContent-Disposition: form-data; name="weights"; filename="w"\r\n\r\n',
            safetensors(),
            b"\r\n--x--\r\n",
        ]
        body = b"".join(parts)
        answer = either.client.post("/v1/models", content=body, headers={"Content-Type": head})
        problem(answer, 422, "invalid-request")


def test_keys_expire_in_utc(either: Service) -> None:
    body = {"name": "k", "scopes": ["read"], "expires_at": "2100-01-01T01:00:00+02:00"}
    answer = either.client.post("/v1/keys", json=body)

    assert answer.json()["expires_at"] == "2099-12-31T23:00:00Z"


def test_a_document_of_too_many_values_is_refused_before_it_is_looked_at(service: Service) -> None:
    body = '{"name": "d", "format": "npz", "mean": [' + '"x",' * MAX_VALUES + '"x"]}'
    answer: httpx.Response = service.client.post("/v1/datasets", content=body, headers=JSON)

    assert "values" in str(problem(answer, 422, "invalid-request")["detail"])


def test_the_text_that_is_wrong_is_named() -> None:
    with pytest.raises(SpecError) as refused:
        read_json('{"a": [{"b": "ok"}, {"c": "no\\u0000"}]}')

    assert [each.field for each in refused.value.problems] == ["a.1.c"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/keys", "/v1/datasets"])
def test_json_that_is_sent_as_a_form_is_refused_in_words(service: Service, path: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = service.client.post(path, content='{"name": "a"}', headers=headers)

    detail = str(problem(answer, 415, "unsupported-media-type")["detail"])
    assert "must be application/json" in detail or "must be application/json or" in detail
    assert "-H 'content-type: application/json'" in detail


def test_a_document_may_begin_with_a_byte_order_mark(service: Service) -> None:
    document = b'\xef\xbb\xbf{"name": "k", "scopes": ["read"]}'

    assert service.client.post("/v1/keys", content=document, headers=JSON).status_code == 201
