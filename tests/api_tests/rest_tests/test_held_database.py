"""Somebody holds SQLite's write lock: reads are answered all the same, and writes in time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from api.auth import AccessSettings
from tests.api_tests.rest_tests.conftest import ADMIN_KEY, Start
from tests.api_tests.rest_tests.rows import new_job
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_problems import problem

WRITES = 60  # more than the server has threads, and than the pool has connections
READS = ("/healthz", "/v1/jobs?limit=1", "/v1/models", "/metrics")


@contextmanager
def held(home: Path) -> Iterator[Callable[[], None]]:
    """Holds the write lock for the block, or until what it gives is called."""
    connection = sqlite3.connect(home / "secateur.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection.close
    finally:
        connection.close()


@contextmanager
def waiting_writes(service: Service, job_id: str) -> Iterator[list[Future[httpx.Response]]]:
    """Many requests that write, sent at once."""
    with ThreadPoolExecutor(WRITES) as threads:
        path = f"/v1/jobs/{job_id}/stop"
        yield [threads.submit(service.client.post, path, timeout=30) for _ in range(WRITES)]


def test_reads_are_answered_while_many_writes_wait(start: Start, home: Path) -> None:
    with start(patience_s=30) as service:
        job_id = new_job(service)
        with held(home) as let_go, waiting_writes(service, job_id) as writes:
            reads = [service.client.get(path, timeout=5).status_code for path in READS]
            still_waiting = not any(write.done() for write in writes)
            let_go()
        assert reads == [200] * len(READS)
        assert still_waiting
        assert [write.result().status_code for write in writes] == [202] * WRITES


def test_a_write_whose_patience_ends_is_told_to_come_again(start: Start, home: Path) -> None:
    with start(patience_s=0.05) as service:
        job_id = new_job(service)
        with held(home), waiting_writes(service, job_id) as writes:
            answers = [write.result() for write in writes]
        for answer in answers:
            problem(answer, 503, "database-busy")
            assert answer.headers["retry-after"]
        assert service.client.post(f"/v1/jobs/{job_id}/stop").status_code == 202


def test_a_read_with_a_key_does_not_wait_to_note_the_keys_use(start: Start, home: Path) -> None:
    access = AccessSettings(auth="on", admin_key=ADMIN_KEY)
    with start(access, patience_s=30) as service:
        admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
        made = service.client.post(
            "/v1/keys", json={"name": "reader", "scopes": ["read"]}, headers=admin
        )
        reader = {"Authorization": f"Bearer {made.json()['key']}"}
        with held(home):
            read = service.client.get("/v1/jobs", headers=reader, timeout=5)
        assert read.status_code == 200


def test_all_turns_are_given_back(start: Start) -> None:
    with start() as service:
        for _ in range(20):
            assert service.client.post("/v1/jobs/job_none/stop").status_code == 404
        job_id = new_job(service)
        assert service.client.post(f"/v1/jobs/{job_id}/stop").status_code == 202
