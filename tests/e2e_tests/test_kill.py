"""`kill -9` of any process in the middle of a job changes nothing but the time it takes."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest

from api.client import Client
from api.routes.views import JobView
from api.stack.background import background
from tests.e2e_tests.service import OPTIONS, Service, add_inputs, job_spec, service


def has_measured(count: int, job: JobView) -> bool:
    return int((job.progress or {}).get("measured", 0)) >= count


def test_killed_processes_are_replaced_and_the_plan_stays_the_same(
    running: Service, finished_job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = running.client.jobs.get(finished_job).result
    assert undisturbed is not None
    monkeypatch.setenv("SECATEUR_TASK_LEASE_S", "15")
    with service(tmp_path / "home") as stack:
        add_inputs(stack, tmp_path)
        job = stack.client.jobs.submit(job_spec(name="disturbed"))
        killed = []
        for name, count in (("probe", 3), ("valkey", 8), ("collector", 14), ("worker-0", 20)):
            seen = stack.wait(job.id, partial(has_measured, count))
            assert seen.state == "searching", f"{name} must be killed during the search"
            killed.append((name, stack.kill(name)))
        ended = stack.wait(job.id)
        assert ended.state == "succeeded", ended.problem
        assert ended.result is not None
        assert ended.result["plan_digest"] == undisturbed["plan_digest"]
        assert all(stack.child(name) != pid for name, pid in killed)
        counted = stack.rows(
            "SELECT request_id, COUNT(*) FROM measurements WHERE counted GROUP BY request_id"
        )
        assert all(count == 1 for _, count in counted)


def test_worker_killed_while_fine_tuning_goes_on_from_its_checkpoint(
    running: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_TASK_LEASE_S", "15")
    with service(tmp_path / "home") as stack:
        add_inputs(stack, tmp_path)
        job = stack.client.jobs.submit(job_spec())
        seen = stack.wait(job.id, lambda job: job.state == "finetuning")
        assert seen.state == "finetuning"
        stack.kill("worker-0")
        ended = stack.wait(job.id)
        assert ended.state == "succeeded", ended.problem


def test_stack_started_again_shows_the_old_jobs_and_goes_on(
    running: Service, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with service(home) as stack:
        add_inputs(stack, tmp_path)
        job = stack.client.jobs.submit(job_spec())
        stack.wait(job.id, partial(has_measured, 5))
        note = json.loads((home / "up.json").read_text())
    pids = [child["pid"] for child in note["children"].values()]
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)
    with background(home, OPTIONS) as url, Client(url) as client:
        assert job.id in {each.id for each in client.jobs.list()}
        ended = Service(home, url, client).wait(job.id)
        assert ended.state == "succeeded", ended.problem


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
