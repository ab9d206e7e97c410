"""Contexts on databases that the migrations built, and the workshop for whole jobs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jobs import migrations
from tests.latency_probes_tests.valkey import ValkeyProcess
from tests.workers_tests.bench import Bench, make_bench
from tests.workers_tests.workshop import Finished, Workshop
from workers.library import job_source
from workers.loaders.errors import DatasetError


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two threads on two small layers only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database that tests copy."""
    path: Path = tmp_path_factory.mktemp("empty") / "secateur.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def bench(empty_database: Path, tmp_path: Path) -> Iterator[Bench]:
    """A context on a database of its own, whose messages are kept in a list."""
    shutil.copy(empty_database, tmp_path / "secateur.db")
    made = make_bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A server that the test may kill."""
    server = ValkeyProcess(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def workshop(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One model, one data set and one library for all jobs, so that the network is traced once."""
    home: Path = tmp_path_factory.mktemp("workshop")
    shutil.copy(empty_database, home / "secateur.db")
    made = make_bench(home)
    yield Workshop(made)
    made.close()


@pytest.fixture(scope="session")
def finished(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A job on a data set whose test images cannot be read before it has chosen, and on a device
    whose check says that the job's levels are too fine."""
    gate, device_id = tmp_path_factory.mktemp("gate") / "open", workshop.device()
    workshop.check(device_id, screening=0.3)
    with workshop.bench.write() as session:
        workshop.add_dataset(session, "gated", gate=str(gate))
    job_id = workshop.submit("gated", name="whole", finetune={"steps": 3, "batch_size": 16})
    before = workshop.play(
        job_id, device_id=device_id, until=lambda: bool(workshop.tasks(job_id, "finish"))
    )
    snapshot = workshop.snapshot(job_id)
    with pytest.raises(DatasetError) as refusal:
        job_source(workshop.bench.context, snapshot.dataset, snapshot.model).read("test")
    gate.touch()
    job = workshop.play(job_id, device_id=device_id)
    assert job.state == "succeeded", job.problem
    return Finished(job_id, device_id, before.state, refusal.value.detail)
