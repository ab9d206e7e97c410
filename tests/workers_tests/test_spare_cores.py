"""A fine-tuning gets the cores that nobody needs, and gives them back."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from jobs.ids import new_id
from jobs.repository import jobs, requests, tasks
from tests.jobs_tests.builders import make_request
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_decision import add_job
from workers.context import Context
from workers.spare_cores import lent, threads_to_spare

CORES = tuple(sorted(os.sched_getaffinity(0)))
LEASE_S = 60.0


def with_cores(bench: Bench, *cores: int) -> Context:
    settings = bench.settings.model_copy(update={"spare_cores": cores})
    return replace(bench.context, settings=settings)


def run_tasks(bench: Bench, job_id: str, count: int) -> None:
    with bench.write() as session:
        for _ in range(count):
            task = tasks.add(session, job_id, "finetune", new_id("finetune"), {})
            assert tasks.claim(session, task.id, bench.context.clock(), LEASE_S) is not None


def test_each_task_that_runs_gets_an_equal_part(bench: Bench) -> None:
    job_id = add_job(bench)
    run_tasks(bench, job_id, 1)
    assert threads_to_spare(with_cores(bench, 0, 1, 2, 3)) == 4
    run_tasks(bench, job_id, 2)
    assert threads_to_spare(with_cores(bench, 0, 1, 2, 3, 4, 5, 6)) == 2
    assert threads_to_spare(with_cores(bench, 0, 1)) == 1


def test_without_named_cores_there_is_one_thread(bench: Bench) -> None:
    assert threads_to_spare(bench.context) == 1
    assert threads_to_spare(with_cores(bench, 0)) == 1


def test_nothing_is_lent_while_anything_is_to_be_measured(bench: Bench) -> None:
    job_id = add_job(bench)
    with bench.write() as session:
        job = jobs.find(session, job_id)
        assert job is not None
        asked = make_request(session, job)
    assert threads_to_spare(with_cores(bench, 0, 1)) == 1
    with bench.write() as session:
        assert requests.give_up(session, asked.id)
    assert threads_to_spare(with_cores(bench, 0, 1)) == 2


def test_threads_and_cores_are_as_before_afterwards(bench: Bench) -> None:
    own, before = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, CORES[:1])
    try:
        with lent(with_cores(bench, *range(len(CORES)), 1000)) as threads:
            assert threads == torch.get_num_threads() == len(CORES) + 1
            assert os.sched_getaffinity(0) >= set(CORES) & set(range(len(CORES)))
        assert os.sched_getaffinity(0) == set(CORES[:1])
        assert torch.get_num_threads() == before
    finally:
        os.sched_setaffinity(0, own)
        torch.set_num_threads(before)
