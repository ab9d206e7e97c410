"""Liveness, readiness and metrics, with and without a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from api.app import create_app
from api.auth import AccessSettings
from api.broker import Broker
from api.dispatch import CeleryDispatch
from jobs.queues import ADVANCE, ADVANCE_QUEUE, CHECK_MODEL, QUEUE
from jobs.repository import devices
from jobs.settings import Settings
from latency_probes import keys
from tests.api_tests.rest_tests.conftest import Start
from tests.api_tests.rest_tests.rows import new_device, new_job
from tests.api_tests.rest_tests.service import NOBODY, Service
from tests.api_tests.rest_tests.test_problems import problem
from tests.latency_probes_tests.valkey import PASSWORD, ValkeyProcess


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """A real broker."""
    server = ValkeyProcess(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def broker_url(valkey: ValkeyProcess) -> str:
    with valkey.admin() as admin:
        admin.flushall()
    return f"redis://:{PASSWORD}@127.0.0.1:{valkey.port}/0"


def test_the_process_is_alive_without_a_broker(service: Service) -> None:
    assert service.client.get("/healthz").json() == {"status": "ok"}


def test_ready_means_that_database_and_broker_answer(start: Start, broker_url: str) -> None:
    with start(redis_url=broker_url) as service:
        assert service.client.get("/readyz").json() == {
            "status": "ready",
            "database": "ok",
            "broker": "ok",
        }


def test_a_lost_broker_is_named(service: Service) -> None:
    document = problem(service.client.get("/readyz"), 503, "not-ready")

    assert list(document["failures"]) == ["broker"]  # type: ignore[call-overload]


def test_a_database_without_tables_is_named(service: Service) -> None:
    with service.rows() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO away"))

    document = problem(service.client.get("/readyz"), 503, "not-ready")

    assert "The database does not answer: no such table: jobs" in str(document["detail"])


def test_metrics_count_jobs_devices_measurements_and_queues(
    start: Start, broker_url: str, valkey: ValkeyProcess
) -> None:
    with start(redis_url=broker_url) as service:
        new_job(service)
        device_id, _ = new_device(service)
        with valkey.admin() as admin:
            admin.xadd(keys.requests_stream(device_id), {"m": "x"})
        lines = service.client.get("/metrics").text.splitlines()

    assert 'secateur_jobs{state="queued"} 1.0' in lines
    assert 'secateur_jobs{state="failed"} 0.0' in lines
    assert 'secateur_devices{state="pending"} 1.0' in lines
    assert "secateur_measurements_total 0.0" in lines
    assert 'secateur_queue_length{queue="secateur"} 0.0' in lines
    assert 'secateur_queue_length{queue="secateur-advance"} 0.0' in lines
    assert f'secateur_queue_length{{queue="{keys.requests_stream(device_id)}"}} 1.0' in lines


def test_metrics_are_there_without_a_broker(service: Service) -> None:
    answer = service.client.get("/metrics").text

    assert 'secateur_jobs{state="queued"} 0.0' in answer
    assert "secateur_queue_length{" not in answer


@pytest.mark.parametrize(("step", "queue"), [(ADVANCE, ADVANCE_QUEUE), (CHECK_MODEL, QUEUE)])
def test_a_step_is_one_message_with_an_id_in_its_queue(
    broker_url: str, valkey: ValkeyProcess, step: str, queue: str
) -> None:
    dispatch, broker = CeleryDispatch(broker_url), Broker(broker_url)
    try:
        dispatch.send(step, "id_1")

        assert broker.queue_lengths([]) == {QUEUE: 0, ADVANCE_QUEUE: 0, queue: 1}
        with valkey.admin() as admin:
            assert f'"task": "{step}"' in admin.lindex(queue, 0)
    finally:
        dispatch.close()
        broker.close()


def test_a_step_that_cannot_be_sent_is_logged_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dispatch = CeleryDispatch(NOBODY)
    try:
        dispatch.send(ADVANCE, "job_1")
    finally:
        dispatch.close()

    assert "secateur.advance(job_1) was not sent" in caplog.text


@pytest.mark.anyio
async def test_the_applications_end_closes_its_connections(home: Path) -> None:
    app = create_app(Settings(home=home, redis_url=NOBODY), AccessSettings())

    async with app.router.lifespan_context(app):
        engine = app.state.services.writing.kw["bind"]
        with engine.connect():
            pass
        assert engine.pool.checkedin() == 1

    assert engine.pool.checkedin() == 0


def test_answers_that_were_dropped_are_counted_by_device(start: Start, broker_url: str) -> None:
    with start(redis_url=broker_url) as service:
        device_id, _ = new_device(service)
        with service.rows() as session:
            devices.count_dropped(session, device_id)
            devices.count_dropped(session, device_id)

        text = service.client.get("/metrics").text
        shown = service.client.get(f"/v1/devices/{device_id}").json()

    assert f'secateur_dropped_answers_total{{device="{device_id}"}} 2.0' in text
    assert shown["dropped_answers"] == 2
