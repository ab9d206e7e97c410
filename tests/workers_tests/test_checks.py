"""Uploads are judged once, and the jobs that wait for them are woken."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save
from sqlalchemy import update

from jobs.artifacts import archive_name, weights_name
from jobs.columns import utc_now
from jobs.errors import ArtifactNotFound
from jobs.repository import datasets, inputs, jobs, models
from jobs.spec import BudgetSpec, DatasetSpec, JobSpec, ModelSpec
from jobs.states import InputState
from jobs.tables import Dataset, Model
from tests.e2e_tests.nets import write_dataset
from tests.workers_tests import nets
from tests.workers_tests.bench import KILLER, Bench
from tests.workers_tests.rows import ready_dataset, ready_model
from workers.checks import MAX_ATTEMPTS, check_dataset, check_model
from workers.child import Stumble
from workers.library import Library


def add_model(bench: Bench, function: str, weights: dict[str, Any]) -> str:
    spec = ModelSpec(name="net", architecture=f"{nets.HERE}:{function}", input_shape=nets.SHAPE)
    data = save(weights)
    with bench.write() as session:
        model = ready_model(session, spec, hashlib.sha256(data).hexdigest())
    bench.context.store.put(weights_name(model.id), data)
    return model.id


def add_dataset(bench: Bench, **spec: Any) -> str:
    with bench.write() as session:
        dataset = datasets.create(session, DatasetSpec.model_validate({"name": "data", **spec}))
        if dataset is None:
            raise LookupError("name must be free")
        return dataset.id


def add_job(bench: Bench, model_id: str, dataset_id: str) -> str:
    spec = JobSpec(model="net", dataset="data", budget=BudgetSpec(ratio=0.5))
    with bench.write() as session:
        return jobs.create(session, spec, model_id=model_id, dataset_id=dataset_id).id


def model_row(bench: Bench, model_id: str) -> Model:
    with bench.context.read() as session:
        row = models.find(session, model_id)
    if row is None:
        raise LookupError(model_id)
    return row


def dataset_row(bench: Bench, dataset_id: str) -> Dataset:
    with bench.context.read() as session:
        row = datasets.find(session, dataset_id)
    if row is None:
        raise LookupError(dataset_id)
    return row


def entry(bench: Bench, entry_id: str) -> Model | Dataset:
    """The model or data set with this id."""
    is_model = entry_id.startswith("mdl_")
    return model_row(bench, entry_id) if is_model else dataset_row(bench, entry_id)


def claim(bench: Bench, entry_id: str) -> None:
    """Another worker takes it for a minute."""
    now = bench.context.clock()
    with bench.write() as session:
        if entry_id.startswith("mdl_"):
            assert inputs.claim(session, Model, entry_id, now, 60)
        else:
            assert inputs.claim(session, Dataset, entry_id, now, 60)


def test_good_model_is_ready_with_its_report_and_wakes_its_waiting_jobs(bench: Bench) -> None:
    model_id = add_model(bench, "chatty", nets.weights(nets.small()))
    with bench.write() as session:
        dataset = ready_dataset(
            session, DatasetSpec(name="data", format="python", function=f"{nets.HERE}:stripes")
        )
    waiting = add_job(bench, model_id, dataset.id)
    check_model(bench.context, Library(bench.context), model_id)
    row = model_row(bench, model_id)
    assert row.state == InputState.READY
    assert (row.report or {})["groups"]
    assert bench.take_messages() == [("advance", waiting)]
    check_model(bench.context, Library(bench.context), model_id)
    assert bench.take_messages() == []


def test_bad_model_is_rejected_with_its_problem(bench: Bench) -> None:
    model_id = add_model(bench, "small", {})
    check_model(bench.context, Library(bench.context), model_id)
    row = model_row(bench, model_id)
    assert row.state == InputState.REJECTED
    assert len((row.problem or {})["errors"]) == 4


@pytest.mark.parametrize("check", [check_model, check_dataset])
def test_unknown_upload_is_left_alone(bench: Bench, check: Any) -> None:
    check(bench.context, Library(bench.context), "gone")
    assert bench.messages == []


def test_good_data_set_is_ready_with_what_was_found(bench: Bench, tmp_path: Path) -> None:
    dataset_id = add_dataset(bench, format="npz", path=str(write_dataset(tmp_path / "d.npz", 30)))
    check_dataset(bench.context, Library(bench.context), dataset_id)
    row = dataset_row(bench, dataset_id)
    assert row.state == InputState.READY
    assert row.info == {"train_images": 30, "image_shape": [1, 12, 12], "classes": 4}


def test_check_does_not_read_the_test_images(bench: Bench) -> None:
    dataset_id = add_dataset(
        bench, format="python", function=f"{nets.HERE}:stripes", kwargs={"gate": "/nowhere"}
    )
    check_dataset(bench.context, Library(bench.context), dataset_id)
    assert dataset_row(bench, dataset_id).state == InputState.READY


def test_bad_data_set_is_rejected_and_wakes_its_waiting_jobs(bench: Bench) -> None:
    dataset_id = add_dataset(bench, format="npz", path="/nowhere.npz")
    waiting = add_job(bench, add_model(bench, "small", {}), dataset_id)
    check_dataset(bench.context, Library(bench.context), dataset_id)
    row = dataset_row(bench, dataset_id)
    assert row.state == InputState.REJECTED
    assert "/nowhere.npz cannot be read" in (row.problem or {})["detail"]
    assert bench.take_messages() == [("advance", waiting)]
    check_dataset(bench.context, Library(bench.context), dataset_id)
    assert bench.take_messages() == []


@pytest.mark.parametrize("format", ["npz", "image_folder"])
def test_uploaded_file_that_is_no_archive_is_rejected(bench: Bench, format: str) -> None:
    dataset_id = add_dataset(bench, format=format)
    bench.context.store.put(archive_name(dataset_id), b"PK\x03\x04 cut off")
    check_dataset(bench.context, Library(bench.context), dataset_id)
    assert dataset_row(bench, dataset_id).state == InputState.REJECTED


def test_jobs_that_wait_for_something_else_are_not_woken(bench: Bench) -> None:
    model_id = add_model(bench, "small", {})
    other_id = add_dataset(bench, format="python", function=f"{nets.HERE}:stripes")
    add_job(bench, model_id, other_id)
    lonely = add_dataset(bench, name="lonely", format="npz", path="/nowhere.npz")
    check_dataset(bench.context, Library(bench.context), lonely)
    assert bench.take_messages() == []


def test_pipe_as_a_data_set_is_refused(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    dataset_id = add_dataset(bench, format="npz", path=str(tmp_path / "pipe"))
    check_dataset(bench.context, Library(bench.context), dataset_id)
    assert "must be a regular file" in (dataset_row(bench, dataset_id).problem or {})["detail"]


def test_paths_outside_the_data_roots_are_refused_by_the_worker_too(
    bench: Bench, tmp_path: Path
) -> None:
    path = write_dataset(tmp_path / "d.npz", 30)
    dataset_id = add_dataset(bench, format="npz", path=str(path))
    settings = bench.settings.model_copy(update={"data_roots": (tmp_path / "other",)})
    context = replace(bench.context, settings=settings)
    check_dataset(context, Library(context), dataset_id)
    assert "under a data root" in (dataset_row(bench, dataset_id).problem or {})["detail"]


def test_data_set_that_kills_its_reader_is_rejected_and_the_worker_lives(bench: Bench) -> None:
    dataset_id = add_dataset(bench, format="python", function=KILLER)
    check_dataset(bench.context, Library(bench.context), dataset_id)
    assert "it was killed" in (dataset_row(bench, dataset_id).problem or {})["detail"]


@pytest.mark.parametrize(
    ("check", "add"),
    [
        (check_model, lambda bench: add_model(bench, "small", nets.weights(nets.small()))),
        (check_dataset, lambda bench: add_dataset(bench, format="npz", path="/nowhere.npz")),
    ],
    ids=["model", "data set"],
)
class TestLease:
    def test_check_that_another_worker_runs_is_left_alone(
        self, bench: Bench, check: Any, add: Any
    ) -> None:
        entry_id = add(bench)
        claim(bench, entry_id)
        check(bench.context, Library(bench.context), entry_id)
        row = entry(bench, entry_id)
        assert (row.state, row.attempt) == (InputState.CHECKING, 1)

    def test_run_that_has_lost_its_lease_judges_nothing(
        self, bench: Bench, check: Any, add: Any
    ) -> None:
        entry_id = add(bench)
        table: Any = Model if check is check_model else Dataset
        bench.now = utc_now()
        with bench.write() as session:
            late = inputs.claim(session, table, entry_id, bench.now, 60)
            assert late is not None
            assert inputs.claim(session, table, entry_id, bench.now + timedelta(seconds=61), 60)
            judge = models.reject if check is check_model else datasets.reject
            assert not judge(session, entry_id, {}, attempt=1)
            assert judge(session, entry_id, {}, attempt=2)

    def test_check_whose_workers_die_is_given_up_with_the_reason(
        self, bench: Bench, check: Any, add: Any
    ) -> None:
        entry_id = add(bench)
        bench.now = utc_now()
        for _ in range(MAX_ATTEMPTS):
            claim(bench, entry_id)
            bench.now += timedelta(seconds=61)
        check(bench.context, Library(bench.context), entry_id)
        row = entry(bench, entry_id)
        assert row.state == InputState.REJECTED
        assert "was begun 5 times and never came to an end" in (row.problem or {})["detail"]


@pytest.mark.parametrize(
    ("check", "table", "add"),
    [
        (check_model, Model, lambda bench: add_model(bench, "away", {})),
        (
            check_dataset,
            Dataset,
            lambda bench: add_dataset(bench, format="python", function=f"{nets.HERE}:away"),
        ),
    ],
    ids=["model", "data set"],
)
def test_check_whose_child_meets_an_error_that_may_pass_is_run_again(
    bench: Bench, check: Any, table: Any, add: Any
) -> None:
    entry_id = add(bench)
    with pytest.raises(Stumble, match="Input/output error"):
        check(bench.context, Library(bench.context), entry_id)
    with bench.context.read() as session:
        row = inputs.find(session, table, entry_id)
    assert row is not None
    assert (row.state, row.attempt, row.lease_until) == (InputState.CHECKING, 1, None)


def test_check_that_fails_for_now_gives_its_lease_back(bench: Bench) -> None:
    dataset_id = add_dataset(bench, format="npz")
    with pytest.raises(ArtifactNotFound):
        check_dataset(bench.context, Library(bench.context), dataset_id)
    row = dataset_row(bench, dataset_id)
    assert (row.state, row.attempt, row.lease_until) == (InputState.CHECKING, 1, None)


@pytest.mark.parametrize("spec", [{}, [], {"name": "net", "quantized": True}])
def test_upload_whose_spec_cannot_be_read_is_rejected_and_says_so(
    bench: Bench, spec: object
) -> None:
    model_id = add_model(bench, "small", nets.weights(nets.small()))
    dataset_id = add_dataset(bench, format="npz", path="/x")
    with bench.write() as session:
        session.execute(update(Model).values(spec=spec))
        session.execute(update(Dataset).values(spec=spec))
    check_model(bench.context, Library(bench.context), model_id)
    check_dataset(bench.context, Library(bench.context), dataset_id)
    for row in (model_row(bench, model_id), dataset_row(bench, dataset_id)):
        assert row.state == InputState.REJECTED
        assert "cannot be read" in (row.problem or {})["detail"]
