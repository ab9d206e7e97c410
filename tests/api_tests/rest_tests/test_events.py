"""A job's log, as pages and as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from jobs.repository import events
from jobs.states import JobState
from jobs.status import transition
from tests.api_tests.rest_tests.rows import new_job
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_problems import problem

SSE = {"Accept": "text/event-stream"}


@pytest.fixture
def job_id(service: Service) -> str:
    """A job whose log has four entries."""
    job_id = new_job(service)
    with service.rows() as session:
        for level in (1, 2, 3):
            events.append(session, job_id, "level", {"level": level})
    return job_id


def end(service: Service, job_id: str) -> None:
    with service.rows() as session:
        transition(session, job_id, JobState.QUEUED, JobState.CANCELLED, 1)


def blocks(response: httpx.Response) -> Iterator[dict[str, str]]:
    """The events of a stream, as their fields."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            yield fields
            fields = {}


def numbers(response: httpx.Response) -> list[int]:
    return [int(block["id"]) for block in blocks(response) if "id" in block]


def test_events_come_after_a_number_and_page_by_page(service: Service, job_id: str) -> None:
    path = f"/v1/jobs/{job_id}/events"
    first = service.client.get(f"{path}?after=1&limit=2").json()
    rest = service.client.get(f"{path}?after={first['next']}&limit=2").json()

    assert [item["number"] for item in first["items"]] == [2, 3]
    assert [item["number"] for item in rest["items"]] == [4]
    assert rest["next"] is None
    assert rest["items"][0]["data"] == {"level": 3}


def test_a_quiet_log_costs_a_304(service: Service, job_id: str) -> None:
    path = f"/v1/jobs/{job_id}/events?after=4"
    etag = service.client.get(path).headers["etag"]

    assert service.client.get(path, headers={"If-None-Match": etag}).status_code == 304


def test_the_stream_of_an_ended_job_is_its_log_and_an_end(service: Service, job_id: str) -> None:
    end(service, job_id)

    response = service.client.get(f"/v1/jobs/{job_id}/events", headers=SSE)

    assert response.headers["content-type"].startswith("text/event-stream")
    shown = list(blocks(response))
    assert [block.get("id") for block in shown] == ["1", "2", "3", "4", "5", None]
    assert [block["event"] for block in shown[-2:]] == ["state", "end"]
    assert json.loads(shown[1]["data"])["data"] == {"level": 1}


def test_a_stream_is_resumed_after_the_last_event_id(service: Service, job_id: str) -> None:
    end(service, job_id)
    headers = {**SSE, "Last-Event-ID": "3"}

    assert numbers(service.client.get(f"/v1/jobs/{job_id}/events", headers=headers)) == [4, 5]


def test_a_stream_can_start_after_a_number(service: Service, job_id: str) -> None:
    end(service, job_id)

    response = service.client.get(f"/v1/jobs/{job_id}/events?after=4", headers=SSE)

    assert numbers(response) == [5]


def test_a_stream_follows_what_happens(service: Service, job_id: str) -> None:
    seen = []
    with service.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=SSE) as response:
        for block in blocks(response):
            seen.append(block["event"])
            if len(seen) == 4:
                end(service, job_id)

    assert seen == ["state", "level", "level", "level", "state", "end"]


def test_a_long_log_is_streamed_whole(service: Service, job_id: str) -> None:
    with service.rows() as session:
        for _ in range(250):
            events.append(session, job_id, "tick", {})
    end(service, job_id)

    response = service.client.get(f"/v1/jobs/{job_id}/events", headers=SSE)

    assert numbers(response) == list(range(1, 256))


def test_a_last_event_id_must_be_a_number(service: Service, job_id: str) -> None:
    headers = {**SSE, "Last-Event-ID": "x"}
    response = service.client.get(f"/v1/jobs/{job_id}/events", headers=headers)

    assert "Last-Event-ID must be" in str(problem(response, 422, "invalid-request")["detail"])
