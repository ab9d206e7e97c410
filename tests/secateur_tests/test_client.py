"""The client repeats what can be repeated, and nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest

import secateur
from api.transport import LONGEST_PAUSE_S, ApiProblem, Http, ServerUnreachable, pause_s

Answer = Callable[[httpx.Request], httpx.Response]


def http(*answers: httpx.Response | Exception) -> tuple[Http, list[httpx.Request], list[float]]:
    """A connection whose server gives these answers in turn; what it was sent, and the pauses."""
    seen: list[httpx.Request] = []
    pauses: list[float] = []
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    transport = httpx.MockTransport(answer)
    sent = httpx.Client(base_url="http://server", transport=transport)
    return Http(sent, 3, pauses.append), seen, pauses


BUSY = httpx.Response(503, json={"detail": "busy"}, headers={"Retry-After": "3"})
GOOD = httpx.Response(200, json={})
CUT, AWAY = httpx.ReadError("cut"), httpx.ConnectError("away")


@pytest.mark.parametrize("first", [BUSY, CUT, AWAY])
def test_a_reading_is_repeated(first: httpx.Response | Exception) -> None:
    sent, seen, pauses = http(first, GOOD)
    assert sent.send("GET", "/v1/jobs").status_code == 200
    assert len(seen) == 2
    assert pauses == [3.0 if first is BUSY else 0.2]


def test_what_may_have_been_done_is_not_repeated_without_a_key() -> None:
    sent, seen, _ = http(CUT, GOOD)
    with pytest.raises(ServerUnreachable):
        sent.send("POST", "/v1/models", json={})
    assert len(seen) == 1
    sent, seen, _ = http(CUT, GOOD)
    sent.send("POST", "/v1/jobs", json={}, headers={"Idempotency-Key": "k"})
    assert len(seen) == 2


def test_an_upload_that_was_put_off_is_sent_again_whole() -> None:
    sent, seen, _ = http(BUSY, GOOD)
    with __import__("tempfile").TemporaryFile() as file:
        file.write(b"weights")
        sent.send("POST", "/v1/models", files={"weights": ("w", file, "a/b")})
    assert all(b"weights" in request.read() for request in seen)
    assert len(seen) == 2


def test_other_refusals_and_too_many_are_told() -> None:
    sent, seen, _ = http(httpx.Response(409, json={"detail": "no"}))
    with pytest.raises(ApiProblem, match="no"):
        sent.send("GET", "/")
    sent, seen, _ = http(BUSY, BUSY, BUSY, BUSY)
    with pytest.raises(ApiProblem, match="busy"):
        sent.send("GET", "/")
    assert len(seen) == 4


def test_pauses_grow_up_to_a_limit() -> None:
    assert [pause_s(attempt) for attempt in (0, 1, 2, 9)] == [0.2, 0.4, 0.8, 10.0]
    assert pause_s(0, "900") == LONGEST_PAUSE_S
    assert pause_s(0, "soon") == 0.2


def jobs(request: httpx.Request) -> httpx.Response:
    """A server that knows no job, and refuses new ones with their key."""
    if request.method == "POST":
        return httpx.Response(422, json={"detail": request.headers["idempotency-key"]})
    return httpx.Response(200, json={"items": [], "next": None})


def test_a_submission_makes_itself_a_key() -> None:
    with (
        secateur.Client("http://server", transport=httpx.MockTransport(jobs)) as client,
        pytest.raises(ApiProblem) as refused,
    ):
        client.jobs.submit({})
    assert len(str(refused.value)) == 32


def test_the_calls_are_coroutines_in_the_async_client() -> None:
    async def listed() -> object:
        transport = httpx.MockTransport(jobs)
        async with secateur.AsyncClient("http://server", transport=transport) as client:
            with pytest.raises(AttributeError, match="has no call"):
                client.jobs.nothing()
            return await client.jobs.list()

    assert asyncio.run(listed()) == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    source = (
        "import sys, secateur; dir(secateur); secateur.__version__; secateur.Client; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'fastapi', 'sqlalchemy')))"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_every_name_it_promises_is_there() -> None:
    for name in secateur.__all__:
        assert getattr(secateur, name)
    unknown = "nothing"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(secateur, unknown)
