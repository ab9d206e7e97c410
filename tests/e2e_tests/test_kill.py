"""`kill -9` of any process in a job, a stop and a start, and a broker that lost everything change
nothing but its time."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from api.client import Client
from api.routes.views import JobView
from api.stack.background import background
from tests.e2e_tests.service import OPTIONS, Service, job_spec, service


def has_measured(count: int, job: JobView) -> bool:
    return int((job.progress or {}).get("measured", 0)) >= count


def is_in(state: str, job: JobView) -> bool:
    return job.state == state


KILLS = (
    ("probe", partial(has_measured, 2)),
    ("valkey", partial(has_measured, 5)),
    ("collector", partial(has_measured, 9)),
    ("worker-0", partial(is_in, "searching")),
)


def test_killed_processes_are_replaced_and_the_plan_stays_the_same(
    running: Service, finished_job: str, unused: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = running.client.jobs.get(finished_job).result
    assert undisturbed is not None
    monkeypatch.setenv("SECATEUR_TASK_LEASE_S", "6")
    monkeypatch.setenv("SECATEUR_REQUEST_LEASE_S", "6")
    with service(unused) as stack:
        job = stack.client.jobs.submit(job_spec(name="disturbed"))
        for name, reached in KILLS:
            seen = stack.wait(job.id, reached)
            assert seen.state in {"preparing", "searching"}
            pid = stack.kill(name)
            assert stack.replaced(name, pid)
        pids = [child["pid"] for child in stack.children().values()]
    assert_all_gone(pids)
    (unused / "valkey" / "appendonlydir" / "appendonly.aof.manifest").write_text("damaged")
    with background(unused, OPTIONS) as url, Client(url) as client:
        assert job.id in {each.id for each in client.jobs.list()}
        stack = Service(unused, url, client)
        assert stack.wait(job.id, partial(is_in, "finetuning")).state == "finetuning"
        stack.kill("worker-0")
        ended = stack.wait(job.id)
    assert len(list((unused / "valkey").glob("appendonlydir.damaged-*"))) == 1
    assert ended.state == "succeeded", ended.problem
    assert ended.result is not None
    for same in ("plan_digest", "ratio", "accuracy", "measured"):
        assert ended.result[same] == undisturbed[same]
    counted = stack.rows(
        "SELECT request_id, COUNT(*) FROM measurements WHERE counted GROUP BY request_id"
    )
    assert counted
    assert all(count == 1 for _, count in counted)


def assert_all_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
