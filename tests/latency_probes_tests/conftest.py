"""Fixtures: a real Valkey server, and one device's account on it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from latency_probes import acl, keys
from latency_probes.messages import MeasureRequest, encode
from latency_probes.transport import RedisTransport
from tests.latency_probes_tests.valkey import ValkeyProcess


@dataclass(frozen=True)
class Account:
    """A device's account, as the server side sees it."""

    valkey: ValkeyProcess
    device_id: str
    secret: str

    def allow(self) -> None:
        """Issue the device's ACL user, as the collector does at every connect."""
        digest = hashlib.sha256(self.secret.encode()).hexdigest()
        with self.valkey.admin() as admin:
            admin.execute_command(*acl.set_user(self.device_id, digest))

    def send(self, request: MeasureRequest | str) -> str:
        text = request if isinstance(request, str) else encode(request)
        with self.valkey.admin() as admin:
            entry: str = admin.xadd(keys.requests_stream(self.device_id), {keys.FIELD: text})
            return entry

    def take_away(self, entry_id: str) -> None:
        stream = keys.requests_stream(self.device_id)
        with self.valkey.admin() as admin:
            admin.xdel(stream, entry_id)

    def reports(self) -> list[str]:
        with self.valkey.admin() as admin:
            return [f[keys.FIELD] for _, f in admin.xrange(keys.results_stream(self.device_id))]

    def pending(self) -> int:
        with self.valkey.admin() as admin:
            count: int = admin.xpending(keys.requests_stream(self.device_id), keys.GROUP)[
                "pending"
            ]
            return count

    def transport(self) -> RedisTransport:
        return RedisTransport(self.valkey.url, self.device_id, self.secret)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """One server for all tests that do not kill it."""
    server = ValkeyProcess(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A server that the test may kill."""
    server = ValkeyProcess(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def account(valkey: ValkeyProcess, request: pytest.FixtureRequest) -> Account:
    """A fresh device on the shared server."""
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()
    found = Account(valkey, f"dev_{digest[:12]}", "s" * 32)
    found.allow()
    return found
