"""One stack for all tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e_tests.service import Service, add_inputs, copy_home, job_spec, service


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("stack")
    with service(folder / "home") as stack:
        add_inputs(stack, folder)
        copy_home(stack, folder / "unused")
        yield stack


@pytest.fixture(scope="session")
def unused(running: Service) -> Path:
    """A home with network and data set that has seen no job yet."""
    return running.home.parent / "unused"


@pytest.fixture(scope="session")
def finished_job(running: Service) -> str:
    """A job that ran undisturbed to its end."""
    job = running.client.jobs.submit(job_spec(name="undisturbed"))
    ended = running.wait(job.id)
    assert ended.state == "succeeded", ended.problem
    return job.id
