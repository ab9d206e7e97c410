import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from api.client import (
    ApiProblem,
    BrokenDownload,
    Client,
    ServerUnreachable,
    WaitTimeout,
)
from api.routes.views import ArtifactView

NOW = "2030-01-01T00:00:00Z"
Handler = Callable[[httpx.Request], httpx.Response]
JOB: dict[str, object] = {
    "id": "job_1", "name": None, "state": "searching", "spec": {}, "model_id": "mdl_1",
    "dataset_id": "dat_1", "progress": None, "waiting_for": None, "result": None, "problem": None,
    "stop_requested": False, "cancel_requested": False, "created_at": NOW, "updated_at": NOW,
    "finished_at": None,
}  # fmt: skip


def client(handler: Handler, key: str | None = None) -> Client:
    return Client("http://test", key=key, transport=httpx.MockTransport(handler))


def refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def test_a_problem_document_becomes_an_exception() -> None:
    document = {"title": "Conflict", "detail": "the name is taken", "status": 409}
    api = client(lambda _: httpx.Response(409, json=document))
    with api, pytest.raises(ApiProblem, match="the name is taken") as problem:
        api.jobs.get("job_1")
    assert problem.value.status == 409
    assert problem.value.document == document


@pytest.mark.parametrize("body", [b"<html>", b"[]"])
def test_an_answer_without_a_document_still_names_its_status(body: bytes) -> None:
    api = client(lambda _: httpx.Response(502, content=body))
    with api, pytest.raises(ApiProblem, match="Bad Gateway"):
        api.jobs.get("job_1")


def test_a_silent_server_is_named() -> None:
    with client(refused) as api, pytest.raises(ServerUnreachable, match="http://test"):
        api.models.list()


def test_the_key_is_sent_as_a_bearer_token() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json={"items": [], "next": None})

    with client(answer, key="sct_1_x") as api:
        api.keys.list()
    assert seen == ["Bearer sct_1_x"]


def test_lists_follow_the_pages() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        last = request.url.params.get("after") == "a"
        item = JOB | {"id": "job_2" if last else "job_1"}
        return httpx.Response(200, json={"items": [item], "next": None if last else "a"})

    with client(answer) as api:
        assert [job.id for job in api.jobs.list()] == ["job_1", "job_2"]


def test_events_start_after_a_number() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params["after"]) + 1
        event = {"number": number, "at": NOW, "kind": "state", "data": {}}
        return httpx.Response(200, json={"items": [event], "next": None})

    with client(answer) as api:
        assert [event.number for event in api.jobs.events("job_1", after=6)] == [7]


def test_names_are_quoted_in_paths() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"path": request.url.raw_path.decode()})

    with client(answer) as api:
        assert api.models.graph("a/b") == {"path": "/v1/models/a%2Fb/graph"}


def test_waiting_ends_when_the_job_does() -> None:
    states = iter(["searching", "succeeded"])

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=JOB | {"state": next(states)})

    seen: list[str] = []
    with client(answer) as api:
        api.jobs.wait("job_1", pause_s=0.01, seen=lambda job: seen.append(job.state))
    assert seen == ["searching", "succeeded"]


def test_waiting_outlasts_a_restart_of_the_server() -> None:
    turns = iter([False, True])

    def answer(request: httpx.Request) -> httpx.Response:
        if not next(turns):
            return refused(request)
        return httpx.Response(200, json=JOB | {"state": "failed"})

    with client(answer) as api:
        assert api.jobs.wait("job_1", pause_s=0.01).state == "failed"


def test_waiting_ends_in_time() -> None:
    with client(lambda _: httpx.Response(200, json=JOB)) as api, pytest.raises(WaitTimeout):
        api.jobs.wait("job_1", timeout_s=0.02, pause_s=0.01)


def test_waiting_for_a_check_ends_in_time() -> None:
    model: dict[str, object] = {
        "id": "mdl_1", "name": "net", "state": "checking", "spec": {}, "weights_digest": "",
        "report": None, "problem": None, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    with client(lambda _: httpx.Response(200, json=model)) as api, pytest.raises(WaitTimeout):
        api.models.wait("net", timeout_s=0.02, pause_s=0.01)


def artifact(data: bytes) -> ArtifactView:
    digest = hashlib.sha256(data).hexdigest()
    return ArtifactView.model_validate(
        {"name": "plan.json", "size": len(data), "sha256": digest, "created_at": NOW}
    )


def test_a_download_is_checked_against_the_listing(tmp_path: Path) -> None:
    with client(lambda _: httpx.Response(200, content=b"{}")) as api:
        api.jobs.download("job_1", artifact(b"{}"), tmp_path / "good")
        with pytest.raises(BrokenDownload):
            api.jobs.download("job_1", artifact(b"{"), tmp_path / "bad")
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_a_refused_download_leaves_nothing(tmp_path: Path) -> None:
    api = client(lambda _: httpx.Response(404, json={"detail": "gone"}))
    with api, pytest.raises(ApiProblem, match="gone"):
        api.jobs.download("job_1", artifact(b""), tmp_path / "plan.json")
    with client(refused) as api, pytest.raises(ServerUnreachable):
        api.jobs.download("job_1", artifact(b""), tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == []
