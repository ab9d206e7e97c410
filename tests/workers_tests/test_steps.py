"""The Celery steps are registered by name, and sent to their queues on a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import redis
from sqlalchemy.orm import Session, sessionmaker

from api.dispatch import CeleryDispatch
from jobs.queues import ADVANCE, ADVANCE_QUEUE, QUEUE, QUEUES, SENT, Sent
from jobs.settings import Settings
from tests.latency_probes_tests.valkey import PASSWORD, ValkeyProcess
from tests.workers_tests.bench import Bench
from workers.app import create_celery
from workers.context import create_context
from workers.sending import CelerySender, celery_sender
from workers.steps import STEPS, register


def broker(bench: Bench, url: str) -> Settings:
    return bench.settings.model_copy(update={"redis_url": url})


def test_every_step_is_a_task_that_takes_an_id(bench: Bench) -> None:
    app = create_celery(bench.settings)
    register(app, bench.context)
    for name in STEPS:
        app.tasks[f"secateur.{name}"]("nothing_has_this_id")
    assert bench.messages == []


@pytest.fixture
def settings(bench: Bench, own_valkey: ValkeyProcess) -> Settings:
    """With a broker of its own."""
    return broker(bench, own_valkey.url.replace("redis://", f"redis://:{PASSWORD}@"))


@pytest.fixture
def server(own_valkey: ValkeyProcess) -> Iterator[Any]:
    """What lies on that broker."""
    with redis.Redis(port=own_valkey.port, password=PASSWORD) as connection:
        yield connection


@pytest.fixture
def sender(settings: Settings) -> Iterator[CelerySender]:
    with create_celery(settings) as app:
        yield celery_sender(app)


def lengths(server: Any) -> list[int]:
    return [server.llen(queue) for queue in QUEUES]


def take(server: Any, queue: str) -> None:
    """A worker takes the oldest message, and dies before it begins."""
    assert server.rpop(queue)


def age(server: Any) -> None:
    """What was sent was sent long ago."""
    for member in server.zrange(SENT, 0, -1):
        server.zadd(SENT, {member: 1})


def test_messages_are_json_with_an_id_in_the_queue_of_their_step(
    settings: Settings, sender: CelerySender, server: Any
) -> None:
    with create_context(settings, sender).unit() as unit:
        unit.send("advance", "job_1")
        unit.send("run_task", "tsk_1")
    for queue, step in ((ADVANCE_QUEUE, "advance"), (QUEUE, "run_task")):
        (raw,) = server.lrange(queue, 0, -1)
        message = json.loads(raw)
        assert message["headers"]["task"] == f"secateur.{step}"
        assert message["content-type"] == "application/json"


def test_step_that_waits_is_not_sent_twice_whoever_sends_it(
    settings: Settings, sender: CelerySender, server: Any
) -> None:
    dispatch = CeleryDispatch(settings.redis_url)
    for _ in range(2):
        sender("advance", "job_1")
        dispatch.send(ADVANCE, "job_1")
        sender("run_task", "tsk_1")
    dispatch.close()
    assert lengths(server) == [1, 1]
    assert sender.waiting() == {("advance", "job_1"), ("run_task", "tsk_1")}


def test_wake_that_comes_while_its_step_runs_leads_to_another_run(
    bench: Bench, settings: Settings, sender: CelerySender, server: Any
) -> None:
    def wake_and_read() -> Session:
        sender("advance", "job_1")
        return bench.context.reading()

    reading = cast("sessionmaker[Session]", wake_and_read)
    with create_celery(settings) as app:
        register(app, replace(bench.context, begun=sender.begun, reading=reading))
        sender("advance", "job_1")
        take(server, ADVANCE_QUEUE)
        app.tasks["secateur.advance"]("job_1")
    assert lengths(server) == [1, 0]


def test_message_whose_worker_died_before_it_began_is_lost_after_a_while(
    sender: CelerySender, server: Any
) -> None:
    sender("run_task", "tsk_1")
    sender("run_task", "tsk_2")
    take(server, QUEUE)
    assert ("run_task", "tsk_1") in sender.waiting()  # it may begin at any moment
    age(server)
    assert sender.waiting() == {("run_task", "tsk_2")}
    sender("run_task", "tsk_1")
    sender("run_task", "tsk_2")
    assert lengths(server) == [0, 2]


def test_broker_that_lost_everything_is_sent_everything_again(
    sender: CelerySender, server: Any
) -> None:
    sender("advance", "job_1")
    server.flushall()
    assert sender.waiting() == set()
    sender("advance", "job_1")
    assert lengths(server) == [1, 0]


def test_message_that_nobody_noted_is_found_in_its_queue(
    sender: CelerySender, server: Any
) -> None:
    sender("advance", "job_1")
    server.delete(SENT)
    server.lpush(QUEUE, "not a message", b"\xff")
    assert sender.waiting() == {("advance", "job_1")}
    sender("advance", "job_1")
    assert lengths(server) == [1, 2]


def test_step_that_could_not_be_published_may_be_sent_at_once(server: Any) -> None:
    sent, published = Sent(server), []

    def refuse() -> None:
        raise ConnectionError("the broker went away")

    with pytest.raises(ConnectionError):
        sent.send(ADVANCE, "job_1", refuse)
    sent.send(ADVANCE, "job_1", lambda: published.append("job_1"))
    assert published == ["job_1"]


def test_broker_that_is_away_raises_within_a_second_or_so_and_the_unit_survives(
    bench: Bench,
) -> None:
    with create_celery(bench.settings) as app:
        send = celery_sender(app)
        started = time.monotonic()
        with pytest.raises(redis.ConnectionError):
            send("advance", "job_1")
        assert time.monotonic() - started < 3.0
        with create_context(bench.settings, send).unit() as unit:
            unit.send("advance", "job_1")
