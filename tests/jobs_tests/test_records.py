"""Events, candidates, skeletons, artifacts, leases and idempotency records."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import Stored
from jobs.errors import IdempotencyMismatch
from jobs.repository import artifacts, candidates, events, idempotency, leases, skeletons
from jobs.repository.idempotency import Replay
from tests.jobs_tests.builders import at, make_job


class TestEvents:
    def test_numbers_have_no_gap_though_a_writer_rolls_back(
        self, factory: sessionmaker[Session]
    ) -> None:
        with factory.begin() as session:
            job = make_job(session)
        with factory() as session:
            assert events.append(session, job.id, "lost", {}) == 2
            session.rollback()
        with factory.begin() as session:
            assert events.append(session, job.id, "kept", {"x": 1}, now=at(1)) == 2
            event = events.after(session, job.id, 1)[0]
            assert (event.kind, event.data, event.at) == ("kept", {"x": 1}, at(1))

    def test_they_are_read_after_a_number_and_up_to_a_limit(self, session: Session) -> None:
        job = make_job(session)
        for index in range(5):
            events.append(session, job.id, "tick", {"index": index})
        assert [event.number for event in events.after(session, job.id, 2, limit=3)] == [3, 4, 5]
        assert list(events.after(session, job.id, 6)) == []

    def test_each_job_has_its_own_numbers(self, session: Session) -> None:
        first, second = make_job(session), make_job(session)
        assert events.append(session, first.id, "a", {}) == 2
        assert events.append(session, second.id, "a", {}) == 2

    def test_an_unknown_job_is_refused(self, session: Session) -> None:
        with pytest.raises(LookupError, match="job must exist, but got 'job_x'"):
            events.append(session, "job_x", "a", {})


class TestCandidates:
    def test_a_node_is_written_and_overwritten(self, session: Session) -> None:
        job = make_job(session)
        node = {"digest": "d1", "parent": None, "level": 1, "origin": "cut", "kept": False}
        candidates.save(session, job.id, [{**node, "ratio": None}])
        candidates.save(session, job.id, [{**node, "ratio": 0.5, "kept": True}])
        found = candidates.find(session, job.id, "d1")
        assert found is not None
        assert (found.ratio, found.kept) == (0.5, True)
        assert candidates.count(session, job.id) == 1

    def test_a_whole_tree_comes_by_level_and_digest(self, session: Session) -> None:
        job = make_job(session)
        nodes = [
            {"digest": f"d{index:03}", "parent": None, "level": index % 2, "origin": "cut"}
            for index in range(600)
        ]
        candidates.save(session, job.id, nodes)
        tree = candidates.tree(session, job.id)
        assert [node.level for node in tree] == [0] * 300 + [1] * 300
        assert [node.digest for node in tree[:2]] == ["d000", "d002"]

    def test_changes_are_the_nodes_that_were_written_after_a_version(
        self, session: Session
    ) -> None:
        job = make_job(session)
        node: dict[str, Any] = {"parent": None, "level": 1, "origin": "cut"}
        plan = {"widths": {"g": 3}, "int8": ["conv", "fc"]}
        first = [{**node, "digest": "a", "plan": plan}, {**node, "digest": "b", "plan": None}]
        candidates.save(session, job.id, first, 1)
        candidates.save(session, job.id, [{**node, "digest": "b", "plan": plan}], 3)
        after = [
            [(row.digest, row.int8_layers) for row in candidates.changes(session, job.id, version)]
            for version in (0, 1, 3)
        ]
        assert after == [[("a", 2), ("b", 2)], [("b", 2)], []]
        assert candidates.first_version(session, job.id) == 1
        assert candidates.first_version(session, "job_x") is None

    def test_nothing_is_a_tree_too(self, session: Session) -> None:
        candidates.save(session, make_job(session).id, [])


class TestSkeletons:
    def test_a_known_skeleton_is_not_written_again(self, session: Session) -> None:
        assert skeletons.add(session, "d", 5_000_000_000, "skeletons/d")
        assert not skeletons.add(session, "d", 1, "elsewhere")
        found = skeletons.find(session, "d")
        assert found is not None
        assert (found.size, found.location) == (5_000_000_000, "skeletons/d")


class TestArtifacts:
    def test_a_second_file_of_a_name_replaces_the_first(self, session: Session) -> None:
        job = make_job(session)
        artifacts.record(session, job.id, "plan.json", Stored("a", 1, "0" * 64))
        artifacts.record(session, job.id, "plan.json", Stored("b", 2, "1" * 64))
        artifacts.record(session, job.id, "dense.onnx", Stored("c", 3, "2" * 64))
        rows = [(row.name, row.location) for row in artifacts.for_job(session, job.id)]
        assert rows == [("dense.onnx", "c"), ("plan.json", "b")]
        assert artifacts.find(session, job.id, "report.json") is None


class TestLeases:
    def test_one_owner_leads_until_the_lease_is_over(self, session: Session) -> None:
        assert leases.take(session, "collector", "a", at(0), 30)
        assert not leases.take(session, "collector", "b", at(29), 30)
        assert leases.holder(session, "collector", at(29)) == "a"
        assert leases.holder(session, "collector", at(30)) is None
        assert leases.take(session, "collector", "b", at(30), 30)
        assert not leases.take(session, "collector", "a", at(31), 30)

    def test_the_owner_renews(self, session: Session) -> None:
        leases.take(session, "collector", "a", at(0), 30)
        assert leases.take(session, "collector", "a", at(20), 30)
        assert leases.holder(session, "collector", at(49)) == "a"

    def test_only_the_owner_gives_it_up(self, session: Session) -> None:
        leases.take(session, "collector", "a", at(0), 30)
        leases.release(session, "collector", "b")
        assert leases.holder(session, "collector", at(1)) == "a"
        leases.release(session, "collector", "a")
        assert leases.take(session, "collector", "b", at(1), 30)


class TestIdempotency:
    def test_the_second_request_gets_the_first_answer(self, session: Session) -> None:
        assert idempotency.reserve(session, "jobs", "k", "hash") is None
        idempotency.store(session, "jobs", "k", 202, {"id": "job_1"})
        assert idempotency.reserve(session, "jobs", "k", "hash") == Replay(202, {"id": "job_1"})

    def test_another_request_with_the_key_is_refused(self, session: Session) -> None:
        idempotency.reserve(session, "jobs", "k", "hash")
        with pytest.raises(IdempotencyMismatch, match="must be new for another request"):
            idempotency.reserve(session, "jobs", "k", "other")

    def test_keys_of_other_scopes_do_not_meet(self, session: Session) -> None:
        idempotency.reserve(session, "jobs", "k", "hash")
        assert idempotency.reserve(session, "models", "k", "other") is None

    def test_a_rollback_frees_the_key(self, factory: sessionmaker[Session]) -> None:
        with factory() as session:
            idempotency.reserve(session, "jobs", "k", "hash")
            session.rollback()
        with factory() as session:
            assert idempotency.reserve(session, "jobs", "k", "other") is None

    def test_a_request_without_an_answer_may_be_done_again(self, session: Session) -> None:
        idempotency.reserve(session, "jobs", "k", "hash")
        assert idempotency.reserve(session, "jobs", "k", "hash") is None

    def test_old_answers_are_forgotten(self, session: Session) -> None:
        idempotency.reserve(session, "jobs", "k", "hash", now=at(0))
        idempotency.forget(session, at(1))
        assert idempotency.reserve(session, "jobs", "k", "other") is None

    def test_a_key_is_as_good_as_new_after_a_day(self, session: Session) -> None:
        day_s = idempotency.LIFE.total_seconds()
        idempotency.reserve(session, "jobs", "k", "hash", now=at(0))
        idempotency.store(session, "jobs", "k", 202, {"id": "job_1"})
        known = idempotency.reserve(session, "jobs", "k", "hash", now=at(day_s - 1))
        assert known == Replay(202, {"id": "job_1"})
        assert idempotency.reserve(session, "jobs", "k", "other", now=at(day_s)) is None
        with pytest.raises(IdempotencyMismatch):
            idempotency.reserve(session, "jobs", "k", "hash", now=at(day_s + 1))
