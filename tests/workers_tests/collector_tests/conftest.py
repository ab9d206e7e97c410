"""A real Valkey server, and benches with a job whose requests devices are to answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.latency_probes_tests.valkey import PASSWORD, ValkeyProcess
from tests.workers_tests.bench import Bench
from tests.workers_tests.collector_tests.yard import Yard


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
def yard(bench: Bench, valkey: ValkeyProcess) -> Iterator[Yard]:
    """A job, and the streams of its devices."""
    with Yard(bench, valkey) as made:
        yield made


@pytest.fixture
def broker_url(valkey: ValkeyProcess) -> str:
    """The server's address with its password."""
    return valkey.url.replace("redis://", f"redis://:{PASSWORD}@")
