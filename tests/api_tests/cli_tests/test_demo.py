"""The demo's own steps against a real API; the whole of it runs in the end-to-end tests."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from sqlalchemy.orm import Session

from api.cli import demo
from api.client import Client
from jobs.repository import artifacts, datasets, models
from jobs.states import JobState
from jobs.status import transition
from tests.api_tests.cli_tests.conftest import Served
from tests.api_tests.cli_tests.rows import RESULT


def played(api: Served, turn: Callable[[Session], None]) -> Callable[[], None]:
    """A stand-in for the workers: takes its turn again and again until it is told to stop."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(0.05):
            with api.sessions.begin() as session:
                turn(session)

    thread = threading.Thread(target=run)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join()

    return stop


def test_the_demo_submits_follows_and_saves(
    api: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(session: Session) -> None:
        for model in models.unchecked(session):
            models.accept(session, model.id, {})
        for dataset in datasets.unchecked(session):
            datasets.accept(session, dataset.id, {})
        for step, job in api.sent.steps:
            if step == "secateur.advance":
                states = (JobState.QUEUED, JobState.PREPARING, JobState.SUCCEEDED)
                transition(session, job, states[0], states[1], 1)
                transition(session, job, states[1], states[2], 1, result=RESULT)

    stop = played(api, work)
    try:
        job = demo.prune(api.url, tmp_path, ratio=0.6, runtime="replay", seed=0)
    finally:
        stop()
    assert job.spec["budget"]["ratio"] == 0.6
    assert job.spec["target"]["runtime"] == "replay"
    assert f"Dashboard: {api.url}/#/jobs/{job.id}" in capsys.readouterr().out
    with api.sessions.begin() as session:
        stored = api.store.put(f"jobs/{job.id}/plan.json", b"{}")
        artifacts.record(session, job.id, "plan.json", stored)
    folder = demo.save(api.url, job, tmp_path / "results")
    assert [path.name for path in folder.iterdir()] == ["plan.json"]


def test_a_second_demo_takes_the_model_and_data_of_the_first(api: Served, tmp_path: Path) -> None:
    def check(session: Session) -> None:
        for model in models.unchecked(session):
            models.accept(session, model.id, {})
        for dataset in datasets.unchecked(session):
            datasets.accept(session, dataset.id, {})

    stop = played(api, check)
    try:
        with Client(api.url) as client:
            assert demo.model_name(client) == demo.model_name(client)
            assert demo.dataset_name(client, tmp_path) == demo.dataset_name(client, tmp_path)
            assert len(client.models.list()) == len(client.datasets.list()) == 1
    finally:
        stop()


def test_the_demo_ends_when_its_data_is_rejected(api: Served, tmp_path: Path) -> None:
    def reject(session: Session) -> None:
        for dataset in datasets.unchecked(session):
            datasets.reject(session, dataset.id, {"detail": "there are no images"})

    stop = played(api, reject)
    try:
        with Client(api.url) as client, pytest.raises(typer.Exit):
            demo.dataset_name(client, tmp_path)
    finally:
        stop()
