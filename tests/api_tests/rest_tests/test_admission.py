"""What is checked before the first byte of a body is read: key, scope, size, free disk."""

from __future__ import annotations

import errno
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pytest
from starlette.types import Message

from api.auth import AccessSettings
from api.routes.admission import MAX_DOCUMENT_BYTES
from api.space import MIB, STEP_BYTES, NoSpace, UploadSpace
from jobs.artifacts import ArtifactStore, Stored
from tests.api_tests.rest_tests.conftest import ADMIN_KEY, Start
from tests.api_tests.rest_tests.service import Service, Stage
from tests.api_tests.rest_tests.tensors import safetensors
from tests.api_tests.rest_tests.test_auth import new_key
from tests.api_tests.rest_tests.test_problems import problem

FORM = "multipart/form-data; boundary=x"
JSON = "application/json"
PIECE_BYTES = 64 * 1024
SPEC = json.dumps({"name": "net", "architecture": "timm:resnet18", "input_shape": [3, 32, 32]})


async def exchange(
    stage: Stage, method: str, path: str, headers: dict[str, str]
) -> tuple[int, list[str]]:
    """The status of a request whose body is huge, and what happened in which order."""
    happened, status = [], 0

    async def receive() -> Message:
        happened.append("read")
        return {"type": "http.request", "body": b" " * PIECE_BYTES, "more_body": True}

    async def send(message: Message) -> None:
        nonlocal status
        happened.append(message["type"])
        status = message.get("status", status)

    scope: dict[str, Any] = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "root_path": "", "scheme": "http", "query_string": b"", "http_version": "1.1",
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5),
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    await stage({**scope, "headers": [(b"host", b"localhost"), *scope["headers"]]}, receive, send)
    return status, happened


def bodies(service: Service) -> list[tuple[str, str]]:
    """Method and path of every route that may be sent a body, and of one that there is not."""
    paths = service.client.get("/openapi.json").json()["paths"]
    known = [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, operations in paths.items()
        for method in operations
        if method != "get"
    ]
    return [*known, ("POST", "/v1/nowhere"), ("PUT", "/v1/models")]


@pytest.mark.anyio
@pytest.mark.parametrize("size", [{"Content-Length": str(600 * MIB)}, {"Transfer-Encoding": "c"}])
@pytest.mark.parametrize("kind", [FORM, JSON])
async def test_without_a_key_no_route_reads_any_of_a_body(
    guarded: Service, stage: Stage, kind: str, size: dict[str, str]
) -> None:
    for method, path in bodies(guarded):
        if path == "/v1/devices/enrol":
            continue
        status, happened = await exchange(stage, method, path, {"Content-Type": kind, **size})

        assert status in ((404, 405) if (method, path) in bodies(guarded)[-2:] else (401,)), path
        assert happened[0] == "http.response.start"


@pytest.mark.anyio
async def test_what_needs_no_key_takes_little(guarded: Service, stage: Stage) -> None:
    headers = {"Content-Type": FORM, "Content-Length": str(MIB)}
    status, happened = await exchange(stage, "POST", "/v1/devices/enrol", headers)

    assert (status, happened[0]) == (413, "http.response.start")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/jobs"])
async def test_a_key_of_another_scope_opens_no_body(
    guarded: Service, stage: Stage, path: str
) -> None:
    headers = {"Content-Type": FORM, "Content-Length": str(MIB), **new_key(guarded, "read")}
    status, happened = await exchange(stage, "POST", path, headers)

    assert (status, happened[0]) == (403, "http.response.start")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/jobs", FORM), ("/v1/models", JSON), ("/v1/datasets", JSON)]
)
async def test_only_forms_to_routes_that_take_files_may_be_large(
    service: Service, stage: Stage, path: str, kind: str
) -> None:
    headers = {"Content-Type": kind, "Content-Length": str(MAX_DOCUMENT_BYTES + 1)}
    status, happened = await exchange(stage, "POST", path, headers)

    assert (status, happened[0]) == (413, "http.response.start")


@pytest.mark.anyio
async def test_a_body_in_chunks_is_read_no_further_than_its_limit(
    service: Service, stage: Stage
) -> None:
    headers = {"Content-Type": JSON, "Transfer-Encoding": "chunked"}
    status, happened = await exchange(stage, "POST", "/v1/jobs", headers)

    assert status == 413
    assert happened.index("http.response.start") == MAX_DOCUMENT_BYTES // PIECE_BYTES + 1


def test_a_client_that_sends_on_finds_the_answer(guarded: Service) -> None:
    del guarded.client.headers["Authorization"]
    files = {"weights": b"\0" * 30 * MIB}

    response = guarded.client.post("/v1/models", data={"spec": SPEC}, files=files)

    problem(response, 401, "key-required")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(("key", "first"), [("", b"HTTP/1.1 401"), (ADMIN_KEY, b"HTTP/1.1 100")])
def test_who_expects_100_continue_sends_no_body_in_vain(
    guarded: Service, key: str, first: bytes
) -> None:
    address = urlsplit(str(guarded.client.base_url))
    lines = [
        "POST /v1/models HTTP/1.1", f"Host: {address.netloc}", "Expect: 100-continue",
        f"Content-Type: {FORM}", "Content-Length: 1000", f"Authorization: Bearer {key}", "", "",
    ]  # fmt: skip
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(1000).startswith(first)


def test_a_body_that_stands_still_is_given_up(start: Start) -> None:
    with start(AccessSettings(body_patience_s=0.2)) as service:
        address = urlsplit(str(service.client.base_url))
        lines = [
            "POST /v1/jobs HTTP/1.1", f"Host: {address.netloc}", f"Content-Type: {JSON}",
            "Content-Length: 9", "", "{",
        ]  # fmt: skip
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall("\r\n".join(lines).encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"SECATEUR_BODY_PATIENCE_S" in answer


def test_an_upload_that_would_fill_the_disk_is_refused(start: Start) -> None:
    with start(AccessSettings(min_free_mb=10**9)) as service:
        files = {"weights": safetensors()}
        response = service.client.post("/v1/models", data={"spec": SPEC}, files=files)

    assert "MiB are free" in str(problem(response, 507, "insufficient-storage")["detail"])


class FullStore(ArtifactStore):
    """A store whose disk is full."""

    def put(self, name: str, data: bytes | BinaryIO, *, sha256: str | None = None) -> Stored:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_meanwhile_is_told_as_such(
    service: Service, stage: Stage, home: Path
) -> None:
    if stage.app is None:
        raise LookupError("the fixture must start an application")
    stage.app.state.services = replace(service.services, store=FullStore(str(home)))
    files = {"weights": safetensors()}
    response = service.client.post("/v1/models", data={"spec": SPEC}, files=files)

    problem(response, 507, "insufficient-storage")


def test_an_upload_gives_its_space_back(service: Service, stage: Stage, tmp_path: Path) -> None:
    if stage.app is None:
        raise LookupError("the fixture must start an application")
    space = UploadSpace(tmp_path, [tmp_path], 0, free=lambda _: 5_000_000)
    stage.app.state.services = replace(service.services, space=space)
    for _ in range(3):
        files = {"weights": b"\0" * 2_000_000}
        response = service.client.post("/v1/models", data={"spec": SPEC}, files=files)
        problem(response, 422, "invalid-weights")


@pytest.mark.parametrize("route", ["/v1/models", "/v1/datasets"])
@pytest.mark.parametrize("part", [{"filename": "f"}, {}])
def test_a_form_of_many_parts_is_refused(
    service: Service, route: str, part: dict[str, str]
) -> None:
    parts = [(f"p{n}", (part.get("filename"), b"x")) for n in range(80)]  # a model has 64 files
    response = service.client.post(route, files=parts)

    assert "Too many" in str(problem(response, 400, "bad-request")["detail"])


class Disk:
    """Free bytes of the one disk that all folders lie on."""

    def __init__(self, free: int) -> None:
        self.bytes = free

    def free(self, folder: Path) -> int:
        return self.bytes


def test_uploads_in_flight_count_with_what_they_have_announced(tmp_path: Path) -> None:
    space = UploadSpace(tmp_path, [tmp_path / "new" / "store"], 100, free=Disk(1100).free)
    first = space.promise(300)  # 300 spooled and 300 in the store
    with pytest.raises(NoSpace) as refused:
        space.promise(201)
    assert (refused.value.needed, refused.value.free) == (1002, 1000)
    second = space.promise(200)
    space.release(first)
    space.release(second)
    space.promise(500)


def test_what_has_come_is_not_counted_twice(tmp_path: Path) -> None:
    disk = Disk(1000)
    space = UploadSpace(tmp_path, [tmp_path], 0, free=disk.free)
    first = space.promise(300)
    space.take(first, 300)
    disk.bytes -= 300  # what has come is on the disk

    space.promise(200)


def test_an_upload_of_unknown_size_is_given_space_step_by_step(tmp_path: Path) -> None:
    disk = Disk(10 * STEP_BYTES)
    space = UploadSpace(tmp_path, [tmp_path], 0, free=disk.free)
    endless, come = space.promise(None), 0

    def more() -> None:
        nonlocal come
        space.take(endless, MIB)
        come, disk.bytes = come + MIB, disk.bytes - MIB

    with pytest.raises(NoSpace):
        list(iter(more, disk))

    assert 2 * STEP_BYTES < come <= 5 * STEP_BYTES


def test_a_disk_that_others_fill_stops_an_upload(tmp_path: Path) -> None:
    disk = Disk(10 * STEP_BYTES)
    space = UploadSpace(tmp_path, [tmp_path], 0, free=disk.free)
    promise = space.promise(4 * STEP_BYTES)
    space.take(promise, STEP_BYTES)
    disk.bytes = STEP_BYTES
    with pytest.raises(NoSpace):
        space.take(promise, STEP_BYTES)


def test_uploads_in_flight_are_refused_over_http_too(
    service: Service, stage: Stage, tmp_path: Path
) -> None:
    if stage.app is None:
        raise LookupError("the fixture must start an application")
    space = UploadSpace(tmp_path, [tmp_path], 0, free=lambda _: 5_000_000)
    stage.app.state.services = replace(service.services, space=space)
    address = urlsplit(str(service.client.base_url))
    lines = [
        "POST /v1/models HTTP/1.1", f"Host: {address.netloc}", f"Content-Type: {FORM}",
        "Content-Length: 2000000", "Expect: 100-continue", "", "",
    ]  # fmt: skip
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        files = {"weights": b"\0" * 1_000_000}
        response = service.client.post("/v1/models", data={"spec": SPEC}, files=files)
        problem(response, 507, "insufficient-storage")
