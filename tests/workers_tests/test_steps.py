"""The Celery steps are registered by name, and sent to their queues on a real server."""

from __future__ import annotations

import json
import time

import pytest
import redis
from kombu.exceptions import OperationalError

from jobs.settings import Settings
from tests.latency_probes_tests.valkey import PASSWORD, ValkeyProcess
from tests.workers_tests.bench import Bench
from workers.app import ADVANCE_QUEUE, QUEUE, create_celery
from workers.context import create_context
from workers.sending import celery_sender
from workers.steps import STEPS, register


def broker(bench: Bench, url: str) -> Settings:
    return bench.settings.model_copy(update={"redis_url": url})


def test_every_step_is_a_task_that_takes_an_id(bench: Bench) -> None:
    app = create_celery(bench.settings)
    register(app, bench.context)
    for name in STEPS:
        app.tasks[f"secateur.{name}"]("nothing_has_this_id")
    assert bench.messages == []


def test_messages_are_json_with_an_id_in_the_queue_of_their_step(
    bench: Bench, own_valkey: ValkeyProcess
) -> None:
    url = own_valkey.url.replace("redis://", f"redis://:{PASSWORD}@")
    settings = broker(bench, url)
    with create_celery(settings) as app:
        context = create_context(settings, celery_sender(app))
        with context.unit() as unit:
            unit.send("advance", "job_1")
            unit.send("run_task", "tsk_1")
    with redis.Redis(port=own_valkey.port, password=PASSWORD) as server:
        for queue, step in ((ADVANCE_QUEUE, "advance"), (QUEUE, "run_task")):
            (raw,) = server.lrange(queue, 0, -1)
            message = json.loads(raw)
            assert message["headers"]["task"] == f"secateur.{step}"
            assert message["content-type"] == "application/json"


def test_broker_that_is_away_raises_within_a_second_or_so_and_the_unit_survives(
    bench: Bench,
) -> None:
    with create_celery(bench.settings) as app:
        send = celery_sender(app)
        started = time.monotonic()
        with pytest.raises(OperationalError):
            send("advance", "job_1")
        assert time.monotonic() - started < 3.0
        with create_context(bench.settings, send).unit() as unit:
            unit.send("advance", "job_1")
