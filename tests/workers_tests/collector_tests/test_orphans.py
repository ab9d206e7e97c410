"""The sweep removes exactly what nobody needs, from a local and from a remote store."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from sqlalchemy import select

from jobs import removal
from jobs.artifacts import (
    ArtifactStore,
    Found,
    archive_name,
    job_file_name,
    skeleton_name,
    weights_name,
)
from jobs.columns import utc_now
from jobs.repository import artifacts, devices, idempotency, models, requests, skeletons, tasks
from jobs.spec import ModelSpec
from jobs.states import JobState
from jobs.status import transition
from jobs.tables import EnrolmentToken, Idempotency, Skeleton
from latency_probes.messages import Settings, Target
from tests.workers_tests.bench import Bench
from tests.workers_tests.rows import online_device
from tests.workers_tests.test_decision import add_job, look
from workers.collector.orphans import EVERY_S, GRACE, Sweep
from workers.collector.ownership import owns_store
from workers.context import Context

SKELETONS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("named", "packed", "x")}


class Clock:
    """Seconds that pass at each look, or stand still."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.now, self.tick_s = 0.0, tick_s

    def __call__(self) -> float:
        self.now += self.tick_s
        return self.now


class Timeless(MemoryFileSystem):  # type: ignore[misc]
    """A store that does not tell how old its files are."""

    protocol = "timeless"
    cachable = False
    store: dict[str, Any] = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("timeless:", "memory:")))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        found = super().ls(path, detail=detail, **options)
        return [{**each, "created": None} for each in found] if detail else found

    def info(self, path: str, **options: Any) -> Any:
        return {**super().info(path, **options), "created": None}


fsspec.register_implementation("timeless", Timeless, clobber=True)


@pytest.fixture(params=["local", "memory", "timeless"])
def context(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> Iterator[Context]:
    """A context on each kind of store."""
    if request.param == "local":
        yield bench.context
        return
    store = ArtifactStore(f"{request.param}://{tmp_path.name}", cache=tmp_path / "cache")
    yield replace(bench.context, store=store)
    MemoryFileSystem.store.clear()
    Timeless.store.clear()


def sweep(context: Context) -> Sweep:
    """One whole round."""
    made = Sweep(context, monotonic=Clock())
    made.step()
    return made


def later(bench: Bench) -> None:
    """Lets the grace of everything pass."""
    bench.now = (bench.now or utc_now()) + GRACE + timedelta(minutes=1)


def put(context: Context, *names: str) -> list[str]:
    for name in names:
        context.store.put(name, b"data")
    return list(names)


def files(context: Context) -> set[str]:
    kinds = ("models", "datasets", "jobs", "skeletons", "notes")
    return {each.name for kind in kinds for each in context.store.files(kind) if each.size == 4}


def needed(bench: Bench, context: Context) -> list[str]:
    """The files of a model, a data set and a live job, which all must stay."""
    job_id = add_job(bench)
    job = look(bench, job_id).job
    with bench.write() as session:
        for name in ("named", "packed"):
            digest = SKELETONS[name]
            if name == "named":
                skeletons.add(session, digest, 4, skeleton_name(digest), now=utc_now())
                requests.add(
                    session,
                    job_id,
                    "dense",
                    skeleton_digest=digest,
                    reference_digest=digest,
                    selector="any",
                    target=Target(),
                    settings=Settings(),
                )
        task = tasks.add(session, job_id, "package", "package:x", {})
        tasks.claim(session, task.id, utc_now(), 60.0)
        tasks.finish(session, task.id, 1, {"onnx": {"digest": SKELETONS["packed"]}})
    return put(
        context,
        weights_name(job.model_id),
        f"models/{job.model_id}/skeletons-1.json",
        archive_name(job.dataset_id),
        job_file_name(job_id, "work/d/100.safetensors"),
        job_file_name(job_id, "work/scores.safetensors"),
        skeleton_name(SKELETONS["named"]),
        skeleton_name(SKELETONS["packed"]),
        "notes/mdl_x/by-somebody-else",
    )


def ended(bench: Bench, context: Context) -> tuple[list[str], list[str]]:
    """What stays of a job that has ended, and what does not."""
    job_id = add_ended(bench)
    with bench.write() as session:
        stored = context.store.put(job_file_name(job_id, "plan.json"), b"data")
        artifacts.record(session, job_id, "plan.json", stored)
    loose = ("work/d/100.safetensors", "work/scores.safetensors", "model.onnx")
    return [stored.location], put(context, *(job_file_name(job_id, name) for name in loose))


def add_ended(bench: Bench) -> str:
    job_id = add_job(bench)
    with bench.write() as session:
        transition(session, job_id, JobState.QUEUED, JobState.CANCELLED, 1)
        removal.remove_model(session, look(bench, job_id).job.model_id)
        removal.remove_dataset(session, look(bench, job_id).job.dataset_id)
    return job_id


def orphans(context: Context) -> list[str]:
    return put(
        context,
        weights_name("mdl_000000000000"),
        archive_name("dat_000000000000"),
        job_file_name("job_000000000000", "plan.json"),
        job_file_name("job_000000000000", "work/d/100.safetensors"),
        skeleton_name(SKELETONS["x"]),
    )


def test_exactly_the_orphans_go(bench: Bench, context: Context) -> None:
    kept, loose = ended(bench, context)
    kept, gone = kept + needed(bench, context), loose + orphans(context)

    removed = twice(bench, context)

    assert files(context) == set(kept)
    assert removed == set(gone)


def twice(bench: Bench, context: Context) -> set[str]:
    """What goes in two rounds, between which everything grows old: a store that does not tell how
    old its files are is looked at twice."""
    clock = Clock()
    made = Sweep(context, monotonic=clock)
    made.step()
    removed = set(made.removed)
    later(bench)
    clock.now += EVERY_S
    made.step()
    return removed | set(made.removed)


def test_what_is_being_written_stays(bench: Bench, context: Context) -> None:
    new = orphans(context)
    for made in (sweep(context), sweep(context)):
        assert made.removed == []
    assert files(context) == set(new)


def test_an_upload_whose_row_comes_while_it_is_looked_at_stays(bench: Bench) -> None:
    model_id = "mdl_000000000000"

    def commit() -> None:
        with bench.write() as session:
            spec = ModelSpec(name="late", architecture="onnx")
            models.create(session, spec, weights_digest="0" * 64, model_id=model_id)

    store = Racing(str(bench.settings.home / "artifacts"))
    store.put(weights_name(model_id), b"data")
    store.after_listing = commit
    later(bench)
    assert sweep(replace(bench.context, store=store)).removed == []
    assert store.exists(weights_name(model_id))


class Racing(ArtifactStore):
    """A store in which something happens right after a listing, once."""

    after_listing: Callable[[], None] | None = None

    def files(self, name: str) -> list[Found]:
        found, then = super().files(name), self.after_listing
        self.after_listing = None
        if then is not None:
            then()
        return found


def test_work_of_a_job_that_has_ended_goes_at_once_and_the_rest_when_it_is_old(
    bench: Bench, context: Context
) -> None:
    kept, loose = ended(bench, context)
    assert set(sweep(context).removed) == {name for name in loose if "/work/" in name}
    assert files(context) == {*kept, loose[-1]}


def test_parts_of_broken_uploads_go_and_new_ones_stay(bench: Bench) -> None:
    place = needed(bench, bench.context)[0]
    folder = (bench.settings.home / "artifacts" / place).parent
    for name, age_s in ((".part-old", 2 * GRACE.total_seconds()), (".part-new", 0)):
        (folder / name).write_bytes(b"half")
        moment = utc_now().timestamp() - age_s
        os.utime(folder / name, (moment, moment))
    made = sweep(bench.context)
    assert [Path(name).name for name in made.removed] == [".part-old"]
    assert (folder / ".part-new").exists()


def test_an_empty_folder_of_a_broken_upload_goes(bench: Bench) -> None:
    folder = bench.settings.home / "artifacts/models/mdl_000000000000"
    folder.mkdir(parents=True)
    later(bench)
    sweep(bench.context)
    assert not folder.exists()


def test_a_skeleton_that_lost_its_requests_goes_with_its_row(
    bench: Bench, context: Context
) -> None:
    digest = SKELETONS["x"]
    with bench.write() as session:
        skeletons.add(session, digest, 4, skeleton_name(digest))
    put(context, skeleton_name(digest))
    assert twice(bench, context) == {skeleton_name(digest)}
    with context.read() as session:
        assert session.scalars(select(Skeleton)).all() == []


def test_rows_that_have_expired_or_that_nothing_names_go(bench: Bench) -> None:
    now = utc_now()
    with bench.write() as session:
        idempotency.reserve(session, "jobs", "old", "h", now=now - idempotency.LIFE)
        idempotency.reserve(session, "jobs", "new", "h", now=now)
        devices.create_token(session, now - timedelta(seconds=1))
        valid = devices.create_token(session, now + timedelta(hours=1))
        device = online_device(session)
        removal.remove_device(session, device.id)
    sweep(bench.context)
    with bench.context.read() as session:
        assert session.scalars(select(Idempotency.key)).all() == ["new"]
        assert devices.all_devices(session, removed=True) == []
        (token,) = session.scalars(select(EnrolmentToken)).all()
    assert token.used_by is None
    assert valid


def test_a_round_is_done_in_pieces_and_comes_again_after_an_hour(bench: Bench) -> None:
    names = put(bench.context, *(weights_name(f"mdl_{number:012}") for number in range(10)))
    clock = Clock(tick_s=0.15)
    made = Sweep(bench.context, monotonic=clock)
    later(bench)
    made.step()
    assert len(made.removed) < len(names)
    while clock.now < EVERY_S / 2:
        made.step()
        clock.now += 5
    assert sorted(made.removed) == names

    put(bench.context, names[0])
    later(bench)
    made.step()
    assert bench.context.store.exists(names[0])
    clock.now += EVERY_S
    for _ in range(10):
        made.step()
    assert not bench.context.store.exists(names[0])


def test_a_store_of_another_database_is_left_alone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    left = orphans(bench.context)
    assert owns_store(bench.context)
    bench.context.store.put("owner", b"dbs_another")
    later(bench)
    with caplog.at_level(logging.WARNING):
        assert sweep(bench.context).removed == []
    assert files(bench.context) == set(left)
    assert "belongs to another database" in caplog.text


def test_a_store_that_is_away_is_looked_at_an_hour_later(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    context = replace(bench.context, store=Away(str(bench.settings.home / "artifacts")))
    with caplog.at_level(logging.WARNING):
        sweep(context)
    assert "broke off: nobody answers" in caplog.text


class Away(ArtifactStore):
    """A store that does not answer."""

    def exists(self, name: str) -> bool:
        raise ConnectionError("nobody answers")


def test_a_removal_that_was_killed_before_its_files_went_is_finished(
    bench: Bench, context: Context
) -> None:
    job_id = add_ended(bench)
    put(context, job_file_name(job_id, "plan.json"))
    with bench.write() as session:
        removal.remove_job(session, job_id)
    twice(bench, context)
    assert files(context) == set()


def test_one_that_cannot_be_removed_does_not_keep_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    store = Sticky(str(bench.settings.home / "artifacts"))
    context = replace(bench.context, store=store)
    left, *gone = put(context, *(weights_name(f"mdl_{number:012}") for number in range(3)))
    later(bench)
    assert sweep(context).removed == gone
    assert files(context) == {left}
    assert "mdl_000000000000 cannot be removed: denied" in caplog.text


class Sticky(ArtifactStore):
    """A store that does not give its first model away."""

    def remove_folder(self, name: str) -> None:
        if name == "models/mdl_000000000000":
            raise PermissionError("denied")
        super().remove_folder(name)
