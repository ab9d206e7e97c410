"""The status machine: which ways a job can go, and that only one caller at a time moves it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs import status
from jobs.errors import IllegalTransition
from jobs.repository import events, jobs, tasks
from jobs.status import ALLOWED, LIVE, TERMINAL, JobState
from jobs.tables import Job
from tests.jobs_tests.builders import at, make_job, make_request

PREPARING, QUEUED = JobState.PREPARING, JobState.QUEUED


@given(st.lists(st.integers(0, 8), min_size=12, max_size=12))
def test_every_walk_that_never_goes_back_ends_after_at_most_five_steps(choices: list[int]) -> None:
    state, steps, order = QUEUED, 0, list(JobState)
    for choice in choices:
        ways = sorted(way for way in ALLOWED[state] if order.index(way) > order.index(state))
        if not ways:
            break
        state, steps = ways[choice % len(ways)], steps + 1
    assert state in TERMINAL
    assert steps <= 5


def test_only_verifying_goes_back() -> None:
    order = list(JobState)
    back = {(a, b) for a in ALLOWED for b in ALLOWED[a] if order.index(b) < order.index(a)}
    assert back == {(JobState.VERIFYING, JobState.SEARCHING)}


def test_every_live_state_can_fail_and_be_cancelled() -> None:
    assert all({JobState.FAILED, JobState.CANCELLED} <= ALLOWED[state] for state in LIVE)


def test_every_state_can_be_reached() -> None:
    reached = {QUEUED}
    for _ in JobState:
        reached |= {state for known in reached for state in ALLOWED[known]}
    assert reached == set(JobState)


class TestTransition:
    def test_it_moves_the_job_and_logs_an_event(self, session: Session) -> None:
        job = make_job(session)
        assert status.transition(session, job.id, QUEUED, PREPARING, job.attempt, now=at(1))
        assert (job.state, job.updated_at) == (PREPARING, at(1))
        last = events.after(session, job.id, 0)[-1]
        assert (last.kind, last.data) == ("state", {"from": "queued", "to": "preparing"})

    def test_it_refuses_a_way_that_the_table_lacks(self, session: Session) -> None:
        job = make_job(session)
        with pytest.raises(IllegalTransition, match="after queued must be .*, but got verifying"):
            status.transition(session, job.id, QUEUED, JobState.VERIFYING, job.attempt)
        with pytest.raises(IllegalTransition, match="must be nothing, it is final"):
            status.transition(session, job.id, JobState.FAILED, QUEUED, job.attempt)

    def test_it_leaves_a_job_alone_that_is_elsewhere_by_now(self, session: Session) -> None:
        job = make_job(session)
        status.transition(session, job.id, QUEUED, JobState.CANCELLED, job.attempt)
        seen = job.event_count
        assert not status.transition(session, job.id, QUEUED, PREPARING, job.attempt)
        assert (job.state, job.event_count) == (JobState.CANCELLED, seen)

    def test_it_leaves_a_job_alone_of_another_attempt(self, session: Session) -> None:
        job = make_job(session)
        assert not status.transition(session, job.id, QUEUED, PREPARING, job.attempt + 1)
        assert job.state == QUEUED

    def test_a_final_state_keeps_the_problem_and_the_time(self, session: Session) -> None:
        job = make_job(session)
        problem = {"title": "no"}
        failed = JobState.FAILED
        status.transition(session, job.id, QUEUED, failed, job.attempt, problem=problem, now=at(9))
        assert (job.problem, job.finished_at) == (problem, at(9))
        assert events.after(session, job.id, 0)[-1].data["problem"] == problem

    def test_a_result_is_stored_with_the_state(self, session: Session) -> None:
        job = make_job(session)
        status.transition(session, job.id, QUEUED, PREPARING, 1)
        done = JobState.SUCCEEDED
        assert status.transition(session, job.id, PREPARING, done, 1, result={"ratio": 1.0})
        assert job.result == {"ratio": 1.0}

    def test_a_rollback_takes_state_and_event_back(self, factory: sessionmaker[Session]) -> None:
        with factory.begin() as session:
            job_id = make_job(session).id
        with factory() as session:
            status.transition(session, job_id, QUEUED, PREPARING, 1)
            session.rollback()
        with factory() as session:
            job = jobs.find(session, job_id)
            assert job is not None
            assert (job.state, job.event_count) == (QUEUED, 1)


class TestWishes:
    def test_a_stop_is_noted_once_with_an_event(self, session: Session) -> None:
        job = make_job(session)
        assert status.request_stop(session, job.id)
        assert not status.request_stop(session, job.id)
        assert (job.stop_requested, job.state) == (True, QUEUED)
        kinds = [event.kind for event in events.after(session, job.id, 1)]
        assert kinds == ["stop_requested"]

    @pytest.mark.parametrize("state", sorted(LIVE))
    def test_a_cancel_ends_the_job_at_once_wherever_it_is(
        self, session: Session, state: JobState
    ) -> None:
        job = make_job(session)
        session.execute(update(Job).values(state=state))
        assert status.request_cancel(session, job.id, now=at(5))
        assert (job.state, job.finished_at) == (JobState.CANCELLED, at(5))
        seen = job.event_count
        assert not status.request_cancel(session, job.id)
        assert (job.state, job.event_count) == (JobState.CANCELLED, seen)

    def test_a_job_that_has_ended_cannot_be_stopped(self, session: Session) -> None:
        job = make_job(session)
        status.transition(session, job.id, QUEUED, JobState.FAILED, 1)
        assert not status.request_stop(session, job.id)
        assert not status.request_cancel(session, job.id)
        assert job.state == JobState.FAILED

    def test_a_job_that_nobody_knows_cannot_be_cancelled(self, session: Session) -> None:
        assert not status.request_cancel(session, "job_gone")


@pytest.mark.parametrize("end", [JobState.CANCELLED, JobState.FAILED])
def test_a_job_that_ends_ends_its_open_tasks_and_requests(session: Session, end: JobState) -> None:
    job = make_job(session)
    pending, running, done = (tasks.add(session, job.id, "score", key, {}) for key in "abc")
    for each in (running, done):
        tasks.claim(session, each.id, at(0), 60)
    tasks.finish(session, done.id, 1, {"loss": 1.0})
    request = make_request(session, job)
    status.transition(session, job.id, QUEUED, end, 1)
    session.expire_all()
    assert [task.state for task in (pending, running, done)] == ["failed", "failed", "done"]
    assert pending.error == running.error == "the job has ended"
    assert not tasks.renew(session, running.id, 1, at(1), 60)
    assert not tasks.finish(session, running.id, 1, {"loss": 1.0})
    assert request.state == "failed"


def test_a_job_that_goes_on_keeps_its_tasks(session: Session) -> None:
    job = make_job(session)
    task = tasks.add(session, job.id, "score", "a", {})
    status.transition(session, job.id, QUEUED, PREPARING, 1)
    session.expire_all()
    assert task.state == "pending"
