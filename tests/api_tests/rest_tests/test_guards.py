"""What every request must pass: host, origin, size."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from api.auth import AccessSettings
from api.guards import HostGuard
from tests.api_tests.rest_tests.conftest import ADMIN_KEY, Start
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_problems import problem


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:8000", "LOCALHOST"])
def test_loopback_names_are_served(service: Service, host: str) -> None:
    assert service.client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
def test_a_foreign_host_header_is_refused(service: Service, host: str) -> None:
    response = service.client.get("/v1/jobs", headers={"Host": host})

    assert "SECATEUR_ALLOWED_HOSTS" in str(problem(response, 421, "foreign-host")["detail"])


def test_an_allowed_name_is_served(start: Start) -> None:
    with start(AccessSettings(allowed_hosts="lab.example, other.example")) as service:
        for host, status in (("lab.example:80", 200), ("Other.Example", 200), ("x.example", 421)):
            headers = {"Host": host}
            assert service.client.get("/healthz", headers=headers).status_code == status


def test_with_keys_every_host_is_served_unless_some_are_named(start: Start) -> None:
    for names, status in (("", 200), ("lab.example", 421)):
        access = AccessSettings(auth="on", admin_key=ADMIN_KEY, allowed_hosts=names)
        with start(access) as service:
            response = service.client.get("/healthz", headers={"Host": "any.example"})
            assert response.status_code == status


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"},
                {"Sec-Fetch-Site": "cross-site"}]
)  # fmt: skip
def test_pages_of_other_origins_may_not_change_anything(
    service: Service, headers: dict[str, str]
) -> None:
    response = service.client.post("/v1/devices/tokens", headers=headers)

    problem(response, 403, "foreign-origin")
    assert service.client.get("/v1/jobs", headers=headers).status_code == 200


def test_our_own_page_may(service: Service) -> None:
    origin = str(service.client.base_url)
    headers = {"Origin": origin.rstrip("/"), "Sec-Fetch-Site": "same-origin"}

    assert service.client.post("/v1/devices/tokens", headers=headers).status_code == 201


def test_a_document_over_its_limit_is_refused(service: Service) -> None:
    response = service.client.post("/v1/jobs", json={"name": "x" * 5_000_000})

    problem(response, 413, "content-too-large")


def test_a_body_that_does_not_announce_its_size_is_cut_off_too(service: Service) -> None:
    pieces = (b" " * 1_000_000 for _ in range(6))
    headers = {"Content-Type": "application/json"}

    response = service.client.post("/v1/jobs", content=pieces, headers=headers)

    problem(response, 413, "content-too-large")


@pytest.mark.parametrize(
    ("server", "status"),
    [(("192.168.1.4", 8000), 403), (("127.0.0.1", 8000), 200), (("/run/s.sock", None), 200),
     (None, 200)],
)  # fmt: skip
@pytest.mark.anyio
async def test_without_keys_only_loopback_sockets_are_served(
    server: tuple[str, int | None] | None, status: int
) -> None:
    answered = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answered.append(200)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request"}

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "server": server,
        "headers": [(b"host", b"localhost")],
    }
    await HostGuard(app, AccessSettings())(scope, receive, send)

    assert answered == [status]
