"""TLS to Redis and to the API: only with a certificate that is trusted, and for that very host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.link import Link
from latency_probes.agent import credentials
from latency_probes.agent.server import Models, Unavailable
from latency_probes.messages import EnrolmentReply, Workload
from latency_probes.transport import RedisTransport, TransportError
from tests.latency_probes_tests import certificates
from tests.latency_probes_tests.conftest import Account
from tests.latency_probes_tests.http_server import HttpServer


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("tls") / "trusted.pem")


@pytest.fixture
def guarded(account: Account, trusted: Path) -> Iterator[Link]:
    """The broker behind TLS."""
    with Link(account.valkey.port, certificates.server_context(trusted)) as link:
        yield link


def _transport(account: Account, url: str, ca_file: Path | None) -> RedisTransport:
    return RedisTransport(url, account.device_id, account.secret, ca_file=ca_file)


def test_reports_pass_through_tls(account: Account, guarded: Link, trusted: Path) -> None:
    transport = _transport(account, f"rediss://127.0.0.1:{guarded.port}/0", trusted)
    transport.publish("hello")
    transport.close()
    assert account.reports() == ["hello"]


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=none&ssl_check_hostname=false"])
def test_a_server_that_is_not_trusted_learns_nothing(
    account: Account, guarded: Link, tmp_path: Path, query: str
) -> None:
    other = certificates.make(tmp_path / "other.pem")
    url = f"rediss://127.0.0.1:{guarded.port}/0{query}"
    for ca_file in (None, other):
        with pytest.raises(TransportError, match="certificate verify failed"):
            _transport(account, url, ca_file).publish("hello")


def test_a_certificate_for_another_host_is_refused(account: Account, tmp_path: Path) -> None:
    elsewhere = certificates.make(tmp_path / "elsewhere.pem", "10.0.0.1")
    with Link(account.valkey.port, certificates.server_context(elsewhere)) as link:
        url = f"rediss://127.0.0.1:{link.port}/0"
        with pytest.raises(TransportError, match="certificate is not valid for '127.0.0.1'"):
            _transport(account, url, elsewhere).publish("hello")


def test_the_api_is_trusted_by_the_same_file(
    account: Account, trusted: Path, tmp_path: Path
) -> None:
    reply = EnrolmentReply(
        device_id="dev_1", secret=account.secret, redis_url="redis://x", heartbeat_s=1, lease_s=3
    )
    server = HttpServer(reply.model_dump())
    server.add(b"model")
    server.start()
    port = int(server.url.rpartition(":")[2])
    with Link(port, certificates.server_context(trusted)) as link:
        identity = credentials.Credentials(server=f"https://127.0.0.1:{link.port}", reply=reply)
        for ca_file in (trusted, None):
            models = Models(identity, ca_file)
            if ca_file is None:
                with pytest.raises(Unavailable, match="certificate verify failed"):
                    models.fetch(Workload.of(b"model"), tmp_path / "m")
            else:
                models.fetch(Workload.of(b"model"), tmp_path / "m")
                assert (tmp_path / "m").read_bytes() == b"model"
            models.close()
    server.close()
