"""Jobs, models and data sets: made, found, listed, judged; the search has one writer at a time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, sessionmaker

from jobs import status
from jobs.errors import UnknownCursor
from jobs.repository import datasets, events, inputs, jobs, models
from jobs.spec import JobSpec, ModelSpec
from jobs.states import InputState, JobState
from jobs.tables import Job, Model
from tests.jobs_tests.builders import at, make_dataset, make_job, make_model


@pytest.mark.parametrize("spec", [[1], "text", 3])
def test_a_document_that_is_none_is_an_object_that_says_so(session: Session, spec: Any) -> None:
    job = make_job(session)
    session.execute(text("UPDATE jobs SET spec = :spec"), {"spec": json.dumps(spec)})
    session.expire_all()
    assert jobs.page(session).items[0].spec == {"unreadable": spec}
    assert job.spec == {"unreadable": spec}


def test_a_state_of_another_version_is_listed_and_counted(session: Session) -> None:
    make_job(session)
    session.execute(text("UPDATE jobs SET state = 'paused'"))
    session.expire_all()
    assert jobs.page(session).items[0].state == "paused"
    assert jobs.counts(session)["paused"] == 1  # type: ignore[index]


class TestTrouble:
    def test_a_try_is_counted_once_whoever_else_stumbles(self, session: Session) -> None:
        job = make_job(session)
        seen = Job(id=job.id, state=job.state, tries=0)
        assert jobs.postpone(session, seen, "the disk is full", in_s=5, now=at(0))
        assert not jobs.postpone(session, seen, "the disk is full", in_s=5, now=at(0))
        assert (job.tries, job.try_at, job.waiting_for) == (1, at(5), "the disk is full")
        assert events.after(session, job.id, 1)[-1].data == {"text": "the disk is full"}

    def test_what_a_job_waits_for_besides_stays_when_it_is_over(self, session: Session) -> None:
        job = make_job(session)
        jobs.set_trouble(session, job.id, "the disk is full", now=at(0))
        jobs.set_waiting(session, job.id, "a device")
        assert jobs.clear_trouble(session, job.id, now=at(1))
        assert (job.trouble, job.waiting_for) == (None, "a device")
        assert not jobs.clear_trouble(session, job.id, now=at(2))

    def test_a_new_state_ends_it(self, session: Session) -> None:
        job = make_job(session)
        jobs.postpone(session, job, "the disk is full", in_s=5, now=at(0))
        status.transition(session, job.id, JobState.QUEUED, JobState.PREPARING, 1)
        assert (job.tries, job.try_at, job.trouble, job.waiting_for) == (0, None, None, None)


class TestJobs:
    def test_a_new_job_is_queued_with_its_first_event(self, session: Session) -> None:
        job = make_job(session)
        assert (job.state, job.attempt, job.created_at) == (JobState.QUEUED, 1, at(0))
        assert [event.number for event in events.after(session, job.id, 0)] == [1]

    def test_its_spec_comes_back_as_it_was(self, session: Session) -> None:
        spec = JobSpec.model_validate(make_job(session).spec)
        assert (spec.model, spec.budget.ratio, spec.search.levels) == ("net", 0.5, 5)

    def test_pages_go_from_new_to_old_without_gap_or_repetition(self, session: Session) -> None:
        made = [make_job(session, now=at(second)).id for second in (0, 1, 1, 2, 3)]
        first = jobs.page(session, limit=3)
        second = jobs.page(session, limit=3, after=first.next)
        seen = [job.id for job in (*first.items, *second.items)]
        assert (len(first.items), second.next) == (3, None)
        assert sorted(seen) == sorted(made)
        assert (seen[0], seen[-1]) == (made[-1], made[0])

    def test_a_page_can_be_of_one_state(self, session: Session) -> None:
        make_job(session)
        assert jobs.page(session, state=JobState.FAILED).items == ()

    def test_an_unknown_cursor_is_refused(self, session: Session) -> None:
        with pytest.raises(UnknownCursor, match="after must be the id of an entry, but got 'x'"):
            jobs.page(session, after="x")

    @pytest.mark.parametrize("limit", [0, 501])
    def test_a_limit_outside_its_range_is_refused(self, session: Session, limit: int) -> None:
        with pytest.raises(ValueError, match=f"limit must be between 1 and 500, but got {limit}"):
            jobs.page(session, limit=limit)

    def test_counts_name_every_state(self, session: Session) -> None:
        status.transition(session, make_job(session).id, JobState.QUEUED, JobState.FAILED, 1)
        make_job(session)
        counts = jobs.counts(session)
        assert set(counts) == set(JobState)
        assert (counts[JobState.QUEUED], counts[JobState.FAILED]) == (1, 1)
        assert len(jobs.live(session)) == 1

    def test_related_rows_are_never_loaded_on_their_own(self, session: Session) -> None:
        with pytest.raises(InvalidRequestError, match="lazy='raise'"):
            _ = make_job(session).model

    def test_waiting_is_told_once(self, session: Session) -> None:
        job = make_job(session)
        assert jobs.set_waiting(session, job.id, "a device")
        assert not jobs.set_waiting(session, job.id, "a device")
        assert jobs.set_waiting(session, job.id, None)
        told = [event.data for event in events.after(session, job.id, 1)]
        assert told == [{"for": "a device"}, {"for": None}]


class TestSearchState:
    def test_the_second_of_two_writers_is_refused(self, factory: sessionmaker[Session]) -> None:
        with factory.begin() as session:
            job = make_job(session)
        with factory.begin() as session:
            assert jobs.save_search(session, job.id, 0, {"round": 1}, {"level": 1})
        with factory.begin() as session:
            assert not jobs.save_search(session, job.id, 0, {"round": 9}, {"level": 9})
            found = jobs.find(session, job.id)
            assert found is not None
            assert (found.version, found.search_state) == (1, {"round": 1})
            assert found.progress == {"level": 1}

    def test_the_order_of_keys_and_every_bit_of_a_number_are_kept(
        self, factory: sessionmaker[Session]
    ) -> None:
        state = {"b": 0.1 + 0.2, "a": 5e-324, "c": [1e308, -0.0], "ä": "→"}
        with factory.begin() as session:
            job = make_job(session)
            jobs.save_search(session, job.id, 0, state, {})
        with factory() as session:
            found = jobs.find(session, job.id)
            assert found is not None
            assert repr(found.search_state) == repr(state)

    def test_numbers_that_are_none_are_refused(self, session: Session) -> None:
        job = make_job(session)
        with pytest.raises(Exception, match="Out of range float values"):
            jobs.save_search(session, job.id, 0, {"ratio": float("nan")}, {})

    def test_a_job_that_has_ended_is_not_written(self, session: Session) -> None:
        job = make_job(session)
        status.transition(session, job.id, JobState.QUEUED, JobState.CANCELLED, 1)
        assert not jobs.save_search(session, job.id, 0, {}, {})
        assert not jobs.save_progress(session, job.id, {})

    def test_progress_can_be_saved_alone(self, session: Session) -> None:
        job = make_job(session)
        assert jobs.save_progress(session, job.id, {"step": 5}, now=at(5))
        assert (job.progress, job.updated_at, job.version) == ({"step": 5}, at(5), 0)


class TestModels:
    def test_a_taken_name_is_refused(self, session: Session) -> None:
        model = make_model(session)
        spec = ModelSpec.model_validate(model.spec)
        assert models.create(session, spec, weights_digest="1" * 64) is None

    def test_it_is_found_by_id_and_by_name(self, session: Session) -> None:
        model = make_model(session)
        assert models.find(session, model.id) is model
        assert models.find(session, "net") is model
        assert models.find(session, "other") is None

    def test_an_id_comes_before_a_name(self, session: Session) -> None:
        first = make_model(session)
        make_model(session, name=first.id)
        assert models.find(session, first.id) is first

    def test_it_is_judged_once(self, session: Session) -> None:
        model = make_model(session)
        assert models.unchecked(session) == [model]
        assert models.accept(session, model.id, {"groups": []}, now=at(3))
        assert not models.reject(session, model.id, {"title": "late"})
        assert (model.state, model.report, model.problem) == (
            InputState.READY,
            {"groups": []},
            None,
        )
        assert models.unchecked(session) == []

    def test_its_check_is_run_by_one_worker_at_a_time(self, session: Session) -> None:
        model = make_model(session)
        first = inputs.claim(session, Model, model.id, at(0), 60)
        assert first is not None
        assert first.attempt == 1
        assert inputs.claim(session, Model, model.id, at(59), 60) is None
        assert models.unchecked(session, free_at=at(59)) == []
        assert models.unchecked(session, free_at=at(60)) == [model]
        assert inputs.renew(session, Model, first, at(100))
        assert inputs.claim(session, Model, model.id, at(99), 60) is None

    def test_a_run_that_lost_its_lease_neither_extends_nor_ends_the_next(
        self, session: Session
    ) -> None:
        model_id = make_model(session).id
        lost = inputs.claim(session, Model, model_id, at(0), 60)
        assert lost is not None
        session.expunge(lost)
        second = inputs.claim(session, Model, model_id, at(61), 60)
        assert second is not None
        assert second.attempt == 2
        assert not inputs.renew(session, Model, lost, at(999))
        assert not inputs.renew(session, Model, lost, None)
        assert inputs.renew(session, Model, second, None)
        assert models.unchecked(session, free_at=at(62)) == [second]

    def test_a_judged_one_is_not_checked_again(self, session: Session) -> None:
        model = make_model(session)
        assert inputs.claim(session, Model, model.id, at(0), 60)
        assert models.accept(session, model.id, {})
        assert model.lease_until is None
        assert inputs.claim(session, Model, model.id, at(99), 60) is None

    def test_a_rejected_one_says_why(self, session: Session) -> None:
        model = make_model(session)
        assert models.reject(session, model.id, {"title": "weights do not match"})
        assert (model.state, model.problem) == (
            InputState.REJECTED,
            {"title": "weights do not match"},
        )

    def test_they_are_listed_by_page(self, session: Session) -> None:
        old, new = make_model(session, "old"), make_model(session, "new", now=at(1))
        assert models.page(session).items == (new, old)


class TestDatasets:
    def test_it_is_found_judged_and_listed(self, session: Session) -> None:
        dataset = make_dataset(session)
        assert datasets.find(session, "photos") is dataset
        assert datasets.unchecked(session) == [dataset]
        assert datasets.accept(session, dataset.id, {"images": 10})
        assert (dataset.state, dataset.info) == (InputState.READY, {"images": 10})
        assert datasets.page(session).items == (dataset,)

    def test_a_rejected_one_says_why(self, session: Session) -> None:
        dataset = make_dataset(session)
        assert datasets.reject(session, dataset.id, {"title": "no images"})
        assert not datasets.accept(session, dataset.id, {})
        assert dataset.problem == {"title": "no images"}
