"""A real Valkey server, and benches with a job whose requests devices are to answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.latency_probes_tests.valkey import ValkeyProcess
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
def yard(bench: Bench, valkey: ValkeyProcess) -> Iterator[Yard]:
    """A job, and the streams of its devices."""
    with Yard(bench, valkey) as made:
        yield made
