"""Tasks: claimed by one worker at a time, and taken over when a lease is over."""

from __future__ import annotations

from sqlalchemy.orm import Session, sessionmaker

from jobs.repository import tasks
from jobs.states import TaskState
from jobs.tables import Task
from tests.jobs_tests.builders import at, make_job


def make_task(session: Session, key: str = "fit") -> Task:
    return tasks.add(session, make_job(session).id, "finetune", key, {"step": 0}, now=at(0))


class TestTasks:
    def test_the_same_key_is_one_task(self, session: Session) -> None:
        task = make_task(session)
        again = tasks.add(session, task.job_id, "finetune", "fit", {"step": 9})
        assert (again.id, again.payload) == (task.id, {"step": 0})

    def test_many_tasks_are_added_in_their_order_and_known_keys_left_alone(
        self, session: Session
    ) -> None:
        known = make_task(session)
        works = [("score", f"score:{number}", {"step": number}) for number in range(1200)]
        added = tasks.add_all(session, known.job_id, [("score", "fit", {}), *works])
        found = {task.key: task for task in tasks.for_job(session, known.job_id)}
        assert added == [found[key].id for _, key, _ in works]
        assert {found[key].payload["step"] for _, key, _ in works} == set(range(1200))
        assert (found["fit"].id, found["fit"].kind) == (known.id, "finetune")
        assert found["score:7"].state == TaskState.PENDING

    def test_a_claim_counts_the_attempt_and_sets_the_lease(self, session: Session) -> None:
        claimed = tasks.claim(session, make_task(session).id, at(0), 30)
        assert claimed is not None
        assert (claimed.state, claimed.attempt) == (TaskState.RUNNING, 1)
        assert claimed.lease_until == at(30)

    def test_a_running_task_is_free_again_when_its_lease_is_over(self, session: Session) -> None:
        task = make_task(session)
        tasks.claim(session, task.id, at(0), 30)
        assert tasks.claim(session, task.id, at(29), 30) is None
        again = tasks.claim(session, task.id, at(30), 30)
        assert again is not None
        assert again.attempt == 2

    def test_two_sessions_cannot_both_claim(self, factory: sessionmaker[Session]) -> None:
        with factory.begin() as session:
            task_id = make_task(session).id
        with factory.begin() as first:
            assert tasks.claim(first, task_id, at(0), 30) is not None
        with factory.begin() as second:
            assert tasks.claim(second, task_id, at(0), 30) is None

    def test_a_run_that_lost_its_lease_cannot_finish(self, session: Session) -> None:
        task = make_task(session)
        tasks.claim(session, task.id, at(0), 30)
        tasks.claim(session, task.id, at(40), 30)
        assert not tasks.finish(session, task.id, 1, {"late": True})
        assert not tasks.renew(session, task.id, 1, at(41), 30)
        assert not tasks.fail(session, task.id, 1, "late")
        assert tasks.finish(session, task.id, 2, {"late": False})
        assert (task.state, task.result) == (TaskState.DONE, {"late": False})

    def test_a_task_that_has_ended_cannot_be_claimed(self, session: Session) -> None:
        task = make_task(session)
        tasks.claim(session, task.id, at(0), 30)
        assert tasks.fail(session, task.id, 1, "broken")
        assert (task.state, task.error) == (TaskState.FAILED, "broken")
        assert tasks.claim(session, task.id, at(99), 30) is None

    def test_a_checkpoint_gives_the_next_slice_back(self, session: Session) -> None:
        task = make_task(session)
        tasks.claim(session, task.id, at(0), 30)
        assert tasks.checkpoint(session, task.id, 1, {"step": 50}, now=at(5))
        assert (task.state, task.payload, task.lease_until) == (
            TaskState.PENDING,
            {"step": 50},
            None,
        )
        assert task.queued_at == at(5)

    def test_a_renewed_lease_lasts_longer(self, session: Session) -> None:
        task = make_task(session)
        tasks.claim(session, task.id, at(0), 30)
        assert tasks.renew(session, task.id, 1, at(20), 30)
        assert not tasks.expired(session, at(49))
        assert [row.id for row in tasks.expired(session, at(50))] == [task.id]

    def test_a_lost_message_is_found_and_sent_again_once(self, session: Session) -> None:
        task = make_task(session)
        assert not tasks.stale(session, at(-1))
        assert [row.id for row in tasks.stale(session, at(10))] == [task.id]
        assert tasks.requeued(session, task.id, at(11))
        assert not tasks.stale(session, at(10))

    def test_a_postponed_task_is_due_at_its_time_and_not_before(self, session: Session) -> None:
        task = make_task(session)
        tasks.claim(session, task.id, at(0), 30)
        assert tasks.postpone(session, task, {"step": 1}, "the disk is full", at(60))
        assert (task.state, task.tries, task.payload) == (TaskState.PENDING, 1, {"step": 1})
        assert tasks.claim(session, task.id, at(59), 30) is None
        assert not tasks.due(session, at(59))
        assert not tasks.stale(session, at(59))
        assert [row.id for row in tasks.due(session, at(60))] == [task.id]
        assert tasks.claim(session, task.id, at(60), 30) is not None
        assert not tasks.due(session, at(99))

    def test_a_run_that_lost_its_lease_cannot_postpone(self, session: Session) -> None:
        task = make_task(session)
        tasks.claim(session, task.id, at(0), 30)
        late = Task(id=task.id, attempt=0, tries=0)
        assert not tasks.postpone(session, late, {}, "late", at(60))

    def test_the_tasks_of_a_job_come_by_key(self, session: Session) -> None:
        job = make_job(session)
        for key, kind in (("b", "score"), ("a", "score"), ("c", "finetune")):
            tasks.add(session, job.id, kind, key, {})
        assert [task.key for task in tasks.for_job(session, job.id)] == ["a", "b", "c"]
        assert [task.key for task in tasks.for_job(session, job.id, kind="score")] == ["a", "b"]
