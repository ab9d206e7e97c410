"""What a worker removes from its own machine: what belongs to nothing, once it is old."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_decision import add_job, look
from workers.leftovers import GRACE_S, UNPACKING_S, drop, sweep_machine


def make(place: Path, *, age_s: float = 2 * UNPACKING_S) -> Path:
    """A folder with a file in it."""
    place.mkdir(parents=True)
    (place / "file").write_bytes(b"data")
    moment = time.time() - age_s
    os.utime(place, (moment, moment))
    return place


def test_unpacked_data_sets_that_are_gone_go(bench: Bench) -> None:
    job = look(bench, add_job(bench)).job
    unpacked = bench.settings.unpacked
    gone = [make(unpacked / name) for name in (".part-old", "dat_000000000000")]
    kept = [
        make(unpacked / job.dataset_id),
        make(unpacked / "dat_111111111111", age_s=GRACE_S / 2),
        make(unpacked / ".part-new", age_s=UNPACKING_S / 2),
        make(unpacked / "mine"),
    ]
    assert sorted(sweep_machine(bench.context)) == gone
    assert sorted(unpacked.iterdir()) == sorted(kept)


def test_copies_of_remote_files_that_are_gone_go(bench: Bench, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = ArtifactStore(f"memory://{tmp_path.name}", cache=cache)
    context = replace(bench.context, store=store)
    job = look(bench, add_job(bench)).job
    gone = [
        make(cache / "datasets/dat_000000000000"),
        make(cache / "models/mdl_000000000000"),
    ]
    kept = [make(cache / "models" / job.model_id), make(cache / "datasets" / job.dataset_id)]
    assert sorted(sweep_machine(context)) == gone
    assert sorted(cache.glob("*/*")) == sorted(kept)


def test_a_machine_without_leftovers_is_no_error(bench: Bench) -> None:
    assert sweep_machine(bench.context) == []


def test_a_file_that_cannot_be_removed_is_only_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.context.store.put("jobs/job_1/work/b", b"data")
    drop(bench.context, ["../escape", "jobs/job_1/work/b"])
    assert not bench.context.store.exists("jobs/job_1/work/b")
    assert "../escape was left behind" in caplog.text
