"""What is removed, what stays readable, and what is refused, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from jobs import removal
from jobs.artifacts import ArtifactStore, Stored, skeleton_name
from jobs.errors import InUse
from jobs.repository import (
    artifacts,
    candidates,
    checks,
    datasets,
    devices,
    inputs,
    jobs,
    models,
    requests,
    skeletons,
    tasks,
)
from jobs.repository.measurements import Finding
from jobs.settings import Settings
from jobs.states import InputState, JobState, TaskState
from jobs.status import transition
from jobs.tables import Base, Check, Dataset, Device, Job, Measurement, Model, Skeleton
from tests.jobs_tests.builders import (
    REFERENCE,
    SKELETON,
    at,
    dataset_spec,
    make_dataset,
    make_device,
    make_job,
    make_model,
    make_request,
    model_spec,
)
from tests.jobs_tests.test_checks import make_check


def end(session: Session, job_id: str) -> None:
    transition(session, job_id, JobState.QUEUED, JobState.FAILED, 1)


def measured_job(session: Session, device: Device, purpose: str = "dense") -> Job:
    """A live job with a row in every table that a job has rows in; `device` measured it."""
    job = make_job(session)
    request = make_request(session, job, purpose)
    given = requests.assign(session, request.id, device.id, at(0), 60.0)
    assert given is not None
    assert given.lease_token is not None
    requests.complete(
        session,
        request.id,
        attempt=given.attempt,
        lease_token=given.lease_token,
        device_id=device.id,
        finding=Finding(ratio=0.5),
    )
    tasks.add(session, job.id, "score", "score:x", {})
    node = {"digest": "d", "parent": None, "level": 1, "origin": "cut", "kept": True}
    candidates.save(session, job.id, [node])
    stored = Stored(f"jobs/{job.id}/plan.json", 1, "0" * 64)
    artifacts.record(session, job.id, "plan.json", stored)
    return job


def rows_of(session: Session, job_id: str) -> dict[str, int]:
    """How many rows of each table belong to the job."""
    found = {}
    for mapper in Base.registry.mappers:
        column = getattr(mapper.class_, "job_id", None)
        if column is not None:
            rows = session.scalars(select(column).where(column == job_id)).all()
            found[mapper.class_.__tablename__] = len(rows)
    return found


class TestModelsAndDataSets:
    def test_a_name_is_free_at_once(self, session: Session) -> None:
        remains = removal.remove_model(session, make_model(session).id)
        assert models.find(session, "net") is None
        assert make_model(session).name == "net"
        assert remains.folders[0].startswith("models/mdl_")
        removal.remove_dataset(session, make_dataset(session).id)
        assert make_dataset(session).name == "photos"

    def test_what_a_live_job_uses_is_refused_by_the_name_of_the_job(
        self, session: Session
    ) -> None:
        job = make_job(session)
        for remove, row_id in (
            (removal.remove_model, job.model_id),
            (removal.remove_dataset, job.dataset_id),
        ):
            with pytest.raises(InUse, match=f"must not be in use, but {job.id} has") as refusal:
                remove(session, row_id)
            assert refusal.value.users == (job.id,)
        assert models.find(session, "net") is not None

    def test_jobs_that_have_ended_stay_readable(self, session: Session) -> None:
        job = make_job(session)
        end(session, job.id)
        removal.remove_model(session, job.model_id)
        removal.remove_dataset(session, job.dataset_id)
        found = jobs.find(session, job.id)
        assert found is not None
        assert found.spec["model"] == "net"
        assert models.find(session, job.model_id) is None
        assert models.page(session).items == ()
        assert datasets.page(session).items == ()
        assert make_model(session).id != job.model_id

    def test_a_row_that_jobs_name_goes_with_the_last_of_them(self, session: Session) -> None:
        first, second = make_job(session), make_job(session)
        for job in (first, second):
            end(session, job.id)
        removal.remove_model(session, first.model_id)
        removal.remove_job(session, first.id)
        assert models.kept(session, first.model_id) is not None
        removal.remove_job(session, second.id)
        assert models.kept(session, first.model_id) is None

    def test_a_check_without_a_model_takes_none_that_was_removed(self, session: Session) -> None:
        device = make_device(session)
        job = measured_job(session, device)
        end(session, job.id)
        assert checks.last_reference(session, device.id) is not None
        removal.remove_model(session, job.model_id)
        assert checks.last_reference(session, device.id) is None

    def test_only_what_was_rejected_gives_its_name_away(self, session: Session) -> None:
        model, dataset = make_model(session), make_dataset(session)
        assert removal.replace_rejected(session, model) is None
        assert removal.replace_rejected(session, dataset) is None
        models.reject(session, model.id, {"detail": "no"})
        datasets.reject(session, dataset.id, {"detail": "no"})
        assert removal.replace_rejected(session, model)
        assert removal.replace_rejected(session, dataset)
        assert models.create(session, model_spec(), weights_digest="1" * 64)
        assert datasets.create(session, dataset_spec())

    def test_a_job_that_waits_still_knows_why_its_model_was_rejected(
        self, session: Session
    ) -> None:
        job = make_job(session)
        models.reject(session, job.model_id, {"detail": "too deep"})
        rejected = models.find(session, "net")
        assert rejected is not None
        removal.replace_rejected(session, rejected)
        kept = models.kept(session, job.model_id)
        assert kept is not None
        assert (kept.state, kept.problem) == (InputState.REMOVED, {"detail": "too deep"})

    def test_what_is_removed_cannot_be_held_for_a_new_job(self, session: Session) -> None:
        job = make_job(session)
        assert inputs.hold(session, Model, job.model_id)
        end(session, job.id)
        removal.remove_model(session, job.model_id)
        assert not inputs.hold(session, Model, job.model_id)
        assert inputs.hold(session, Dataset, job.dataset_id)

    def test_to_remove_what_is_gone_changes_nothing(self, session: Session) -> None:
        assert removal.remove_model(session, "mdl_gone") == removal.Remains()
        assert removal.remove_dataset(session, "dat_gone") == removal.Remains()
        assert removal.remove_job(session, "job_gone") == removal.Remains()


class TestJobs:
    def test_a_live_job_is_refused(self, session: Session) -> None:
        job = make_job(session)
        with pytest.raises(InUse, match="must have ended, but is queued: cancel it first"):
            removal.remove_job(session, job.id)

    def test_all_rows_of_a_job_go_and_none_of_another(self, session: Session) -> None:
        device = make_device(session)
        job, other = measured_job(session, device), measured_job(session, device)
        end(session, job.id)
        before = rows_of(session, other.id)
        assert min(before.values()) > 0
        remains = removal.remove_job(session, job.id)
        assert set(rows_of(session, job.id).values()) == {0}
        assert jobs.find(session, job.id) is None
        assert rows_of(session, other.id) == before
        assert remains.folders == (f"jobs/{job.id}",)
        assert remains.skeletons == (REFERENCE, SKELETON)


class TestDevices:
    @pytest.mark.parametrize("purpose", ["dense", "dense:openvino"])
    def test_one_that_measures_a_live_job_is_refused(self, session: Session, purpose: str) -> None:
        device = make_device(session)
        job = measured_job(session, device, purpose)
        with pytest.raises(InUse, match="or revoke it first") as refusal:
            removal.remove_device(session, device.id)
        assert refusal.value.users == (job.id,)

    def test_one_that_a_live_job_or_a_check_waits_for_is_refused(self, session: Session) -> None:
        device = make_device(session)
        job = make_job(session)
        spec = {**job.spec, "target": {**job.spec["target"], "device": f"id:{device.id}"}}
        session.execute(update(Job).where(Job.id == job.id).values(spec=spec))
        check = make_check(session, device)
        with pytest.raises(InUse) as refusal:
            removal.remove_device(session, device.id)
        assert refusal.value.users == (job.id, check.id)

    def test_one_that_is_revoked_goes_whatever_it_measured(self, session: Session) -> None:
        device = make_device(session)
        measured_job(session, device)
        devices.revoke(session, device.id)
        removal.remove_device(session, device.id)
        assert devices.all_devices(session) == []

    def test_it_is_shut_out_and_its_measurements_stay(self, session: Session) -> None:
        device = make_device(session)
        job = measured_job(session, device)
        end(session, job.id)
        removal.remove_device(session, device.id)
        devices.drop_removed(session)
        assert not devices.announce(session, device.id, {})
        assert not devices.revoke(session, device.id)
        (measured,) = session.scalars(select(Measurement).where(Measurement.job_id == job.id))
        assert measured.device_id == device.id
        assert [each.id for each in devices.all_devices(session, removed=True)] == [device.id]

    def test_its_row_goes_when_nothing_names_it(self, session: Session) -> None:
        device, other = make_device(session), make_device(session)
        job = measured_job(session, device)
        end(session, job.id)
        removal.remove_device(session, device.id)
        removal.remove_job(session, job.id)
        devices.drop_removed(session)
        assert [each.id for each in devices.all_devices(session, removed=True)] == [other.id]


class TestFiles:
    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtifactStore:
        made = ArtifactStore(str(tmp_path / "artifacts"))
        for digest in (REFERENCE, SKELETON):
            made.put(skeleton_name(digest), b"onnx")
        return made

    def drop(self, factory: sessionmaker[Session], store: ArtifactStore) -> list[str]:
        return removal.drop_skeletons(factory, store, [REFERENCE, SKELETON])

    def test_skeletons_stay_while_a_request_names_them(
        self, factory: sessionmaker[Session], store: ArtifactStore
    ) -> None:
        with factory.begin() as session:
            job = make_job(session)
            make_request(session, job)
            end(session, job.id)
        assert self.drop(factory, store) == []
        with factory.begin() as session:
            removal.remove_job(session, job.id)
        assert self.drop(factory, store) == [REFERENCE, SKELETON]
        assert not store.exists(skeleton_name(SKELETON))
        with factory() as session:
            assert session.scalars(select(Skeleton)).all() == []

    def test_a_skeleton_stays_while_a_check_names_it(
        self, factory: sessionmaker[Session], store: ArtifactStore
    ) -> None:
        with factory.begin() as session:
            check = make_check(session, make_device(session))
            session.execute(update(Check).values(skeleton_digest=add_both(session)))
            assert checks.find(session, check.id) is not None
        assert self.drop(factory, store) == [SKELETON]

    def test_a_skeleton_stays_while_the_result_of_a_live_job_names_it(
        self, factory: sessionmaker[Session], store: ArtifactStore
    ) -> None:
        with factory.begin() as session:
            add_both(session)
            job = make_job(session)
            task = tasks.add(session, job.id, "package", "package:x", {})
            claimed = tasks.claim(session, task.id, at(0), 60.0)
            assert claimed is not None
            assert claimed.state == TaskState.RUNNING
        assert self.drop(factory, store) == [], "the task may be about to name one"
        with factory.begin() as session:
            tasks.finish(session, task.id, 1, {"onnx": {"digest": REFERENCE}})
        assert self.drop(factory, store) == [SKELETON]
        assert store.exists(skeleton_name(REFERENCE))

    def test_folders_and_what_was_unpacked_go(
        self, factory: sessionmaker[Session], store: ArtifactStore, tmp_path: Path
    ) -> None:
        settings = Settings(home=tmp_path, artifact_url=str(tmp_path / "artifacts"))
        store.put("datasets/dat_1/archive", b"zip")
        store.put("datasets/dat_2/archive", b"zip")
        for name in ("dat_1", "dat_2"):
            (settings.unpacked / name).mkdir(parents=True)
        remains = removal.Remains(("datasets/dat_1",), unpacked="dat_1")
        removal.clear(remains, store, factory, settings)
        assert store.folders("datasets") == ["dat_2"]
        assert [path.name for path in settings.unpacked.iterdir()] == ["dat_2"]


def add_both(session: Session) -> str:
    """Both skeletons; returns the reference."""
    for digest in (REFERENCE, SKELETON):
        skeletons.add(session, digest, 4, skeleton_name(digest), now=at(0))
    return REFERENCE
