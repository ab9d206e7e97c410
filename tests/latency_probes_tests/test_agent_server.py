"""The agent's HTTP calls: which answers are final, and what a server cannot make the agent do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from latency_probes.agent import credentials
from latency_probes.agent.files import write_whole
from latency_probes.agent.server import Models, Refused, Unavailable, enrol
from latency_probes.messages import Capabilities, Enrolment, EnrolmentReply, Workload
from tests.latency_probes_tests.http_server import HttpServer

_REPLY = EnrolmentReply(
    device_id="dev_1",
    secret="s" * 32,
    redis_url="redis://127.0.0.1:1/0",
    heartbeat_s=1,
    lease_s=3,
)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    found = HttpServer(_REPLY.model_dump())
    found.start()
    yield found
    found.close()


@pytest.fixture
def models(server: HttpServer) -> Iterator[Models]:
    found = Models(credentials.Credentials(server=server.url, reply=_REPLY))
    yield found
    found.close()


def _enrolment() -> Enrolment:
    capabilities = Capabilities(cpu="x", cores=1, memory_mb=1, os="x", hostname="x", runtimes={})
    return Enrolment(token="token-1", name="bench", capabilities=capabilities)


def test_a_token_buys_an_identity_once(server: HttpServer) -> None:
    assert enrol(server.url, _enrolment()).reply == _REPLY
    with pytest.raises(Refused, match="answered 403: the token is used or unknown"):
        enrol(server.url, _enrolment())


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again_later(
    server: HttpServer, models: Models, tmp_path: Path, status: int
) -> None:
    server.status = status
    with pytest.raises(Unavailable):
        enrol(server.url, _enrolment())
    with pytest.raises(Unavailable):
        models.fetch(Workload.of(b"model"), tmp_path / "m")


def test_a_server_that_is_not_there_is_asked_again_later(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        enrol("http://127.0.0.1:1", _enrolment())
    identity = credentials.Credentials(server="http://127.0.0.1:1", reply=_REPLY)
    models = Models(identity)
    with pytest.raises(Unavailable):
        models.fetch(Workload.of(b"model"), tmp_path / "m")
    models.close()


def test_a_reply_of_another_protocol_is_refused(server: HttpServer) -> None:
    server.reply = {"version": 2}
    with pytest.raises(Refused, match="gave no valid reply"):
        enrol(server.url, _enrolment())


def test_a_reply_without_details_is_refused_in_words(server: HttpServer) -> None:
    server.status = 404
    with pytest.raises(Refused, match="answered 404: no details"):
        enrol(server.url, _enrolment())


def test_a_model_is_fetched_and_checked(
    server: HttpServer, models: Models, tmp_path: Path
) -> None:
    server.add(b"model")
    models.fetch(Workload.of(b"model"), tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == b"model"


@pytest.mark.parametrize("sent", [b"another", b"more than was announced" * 1000, b""])
def test_a_model_that_is_not_what_was_asked_for_is_refused(
    server: HttpServer, models: Models, tmp_path: Path, sent: bytes
) -> None:
    workload = Workload.of(b"a model")
    server.models[workload.digest] = sent
    with pytest.raises(Refused):
        models.fetch(workload, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_the_server_lacks_is_refused(models: Models, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="answered 404"):
        models.fetch(Workload.of(b"model"), tmp_path / "m")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_whole(tmp_path / "taken", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_credentials_are_kept_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "credentials.json"
    assert credentials.load(path) is None
    kept = credentials.Credentials(server="http://x", reply=_REPLY)
    credentials.save(path, kept)
    assert credentials.load(path) == kept
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept.bearer == f"Bearer scd_dev_1_{'s' * 32}"
