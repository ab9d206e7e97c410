"""A decision is written whole, once, and only by the worker that was first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs import status
from jobs.errors import ArtifactNotFound, IllegalTransition
from jobs.repository import candidates, events, jobs, requests
from jobs.spec import BudgetSpec, DatasetSpec, JobSpec, ModelSpec
from jobs.states import JobState, RequestState
from jobs.tables import Device
from latency_probes.messages import Settings
from tests.workers_tests.bench import Bench
from tests.workers_tests.nets import HERE
from tests.workers_tests.rows import ready_dataset, ready_model
from workers.decision import Decision, NewRequest, NewTask, SearchSave, apply
from workers.results import Blob
from workers.snapshot import Snapshot, take

BLOB = Blob(digest="a" * 64, size=1, location="skeletons/a.onnx")
REQUEST = NewRequest("screening:a", BLOB, BLOB, Settings())
NODE = {"digest": "d", "parent": None, "level": 1, "origin": "cut", "kept": True}


def add_job(bench: Bench, device: str = "any") -> str:
    model = ModelSpec(name="net", architecture=f"{HERE}:small", input_shape=(1, 12, 12))
    data = DatasetSpec(name="data", format="python", function=f"{HERE}:stripes")
    spec = JobSpec.model_validate(
        {"model": "net", "dataset": "data", "budget": BudgetSpec(ratio=0.5)}
        | {"target": {"device": device}}
    )
    with bench.write() as session:
        ids = ready_model(session, model).id, ready_dataset(session, data).id
        return jobs.create(session, spec, model_id=ids[0], dataset_id=ids[1]).id


def look(bench: Bench, job_id: str) -> Snapshot:
    with bench.context.read() as session:
        snapshot = take(session, job_id)
    if snapshot is None:
        raise LookupError(job_id)
    return snapshot


@pytest.fixture(autouse=True)
def skeleton(bench: Bench) -> None:
    """Decisions name only what is in the store."""
    bench.context.store.put(BLOB.location, b"x")


@pytest.fixture
def snapshot(bench: Bench) -> Snapshot:
    """A new job."""
    return look(bench, add_job(bench))


def test_empty_decision_changes_nothing(bench: Bench, snapshot: Snapshot) -> None:
    assert not apply(bench.context, snapshot, Decision())
    assert look(bench, snapshot.job.id).job.updated_at == snapshot.job.updated_at
    assert bench.messages == []


def test_tasks_are_added_and_sent_once_per_key(bench: Bench, snapshot: Snapshot) -> None:
    decision = Decision(tasks=(NewTask("score", "score:a"), NewTask("score", "score:b")))
    apply(bench.context, snapshot, decision)
    added = look(bench, snapshot.job.id).tasks
    assert sorted(bench.take_messages()) == sorted(
        ("run_task", each.id) for each in added.values()
    )
    apply(bench.context, look(bench, snapshot.job.id), decision)
    assert bench.take_messages() == []
    assert look(bench, snapshot.job.id).tasks.keys() == {"score:a", "score:b"}


def test_requests_are_added_once_per_purpose(bench: Bench, snapshot: Snapshot) -> None:
    for _ in range(2):
        apply(bench.context, snapshot, Decision(requests=(REQUEST,)))
    (request,) = look(bench, snapshot.job.id).requests.values()
    assert (request.state, request.selector) == (RequestState.PENDING, "any")


def test_first_requests_go_to_the_devices_that_the_job_names(bench: Bench) -> None:
    job_id = add_job(bench, device="label:room=lab")
    apply(bench.context, look(bench, job_id), Decision(requests=(REQUEST,)))
    (request,) = look(bench, job_id).requests.values()
    assert request.selector == "label:room=lab"


@pytest.mark.parametrize(
    ("named", "selectors"),
    [("any", ["id:dev_1", "pool:dev_1"]), ("id:dev_1", ["id:dev_1", "id:dev_1"])],
)
def test_later_requests_go_to_the_first_device_or_to_its_pool(
    bench: Bench, named: str, selectors: list[str]
) -> None:
    job_id = add_job(bench, device=named)
    snapshot = replace(look(bench, job_id), device=Device(id="dev_1"))
    pooled = replace(REQUEST, purpose="screening:b", pooled=True)
    apply(bench.context, snapshot, Decision(requests=(REQUEST, pooled)))
    asked = look(bench, job_id).requests
    assert [asked[each].selector for each in ("screening:a", "screening:b")] == selectors


def test_transition_that_another_worker_made_first_writes_nothing(
    bench: Bench, snapshot: Snapshot
) -> None:
    assert apply(bench.context, snapshot, Decision(to_state=JobState.PREPARING))
    late = Decision(
        tasks=(NewTask("prepare", "late"),),
        requests=(REQUEST,),
        events=(("late", {}),),
        waiting_for="nothing",
        progress={"late": True},
        to_state=JobState.PREPARING,
    )
    assert apply(bench.context, snapshot, late)  # look again
    after = look(bench, snapshot.job.id)
    assert (after.tasks, after.requests) == ({}, {})
    assert (after.job.waiting_for, after.job.progress) == (None, None)
    with bench.context.read() as session:
        assert "late" not in {event.kind for event in events.after(session, after.job.id, 0)}
    assert bench.messages == []


def test_search_that_another_worker_saved_first_writes_nothing(
    bench: Bench, snapshot: Snapshot
) -> None:
    first = Decision(search=SearchSave({"told": 1}, [NODE]), progress={"level": 1})
    late = Decision(search=SearchSave({"told": 0}, []), tasks=(NewTask("score", "late"),))
    apply(bench.context, snapshot, first)
    apply(bench.context, snapshot, late)
    after = look(bench, snapshot.job.id)
    assert after.search_state == {"told": 1}
    assert after.job.progress == {"level": 1}
    assert after.tasks == {}
    with bench.context.read() as session:
        assert [node.digest for node in candidates.tree(session, after.job.id)] == ["d"]


def test_terminal_transition_abandons_open_requests(bench: Bench, snapshot: Snapshot) -> None:
    apply(bench.context, snapshot, Decision(requests=(REQUEST,)))
    decision = Decision.fail("It broke", "in two", errors=["x"])
    assert apply(bench.context, look(bench, snapshot.job.id), decision)
    after = look(bench, snapshot.job.id)
    assert after.job.state == JobState.FAILED
    assert (after.job.problem or {})["detail"] == "in two"
    assert (after.job.problem or {})["errors"] == ["x"]
    assert {each.state for each in after.requests.values()} == {RequestState.FAILED}
    with bench.context.read() as session:
        assert requests.pending(session) == []


def test_waiting_and_events_are_written_with_the_decision(
    bench: Bench, snapshot: Snapshot
) -> None:
    decision = Decision(waiting_for="a device", events=(("level", {"level": 1}),))
    apply(bench.context, snapshot, decision)
    assert look(bench, snapshot.job.id).job.waiting_for == "a device"
    with bench.context.read() as session:
        log = events.after(session, snapshot.job.id, 0)
    assert [event.kind for event in log] == ["state", "waiting", "level"]


def test_same_progress_is_not_written_again(bench: Bench, snapshot: Snapshot) -> None:
    decision = Decision(progress={"phase": "preparing"})
    apply(bench.context, snapshot, decision)
    before = look(bench, snapshot.job.id)
    apply(bench.context, before, decision)
    assert look(bench, snapshot.job.id).job.updated_at == before.job.updated_at


def send_and_break(bench: Bench, job_id: str) -> None:
    with bench.context.unit() as unit:
        unit.send("advance", job_id)
        status.request_stop(unit.session, job_id)
        status.transition(unit.session, job_id, JobState.QUEUED, JobState.SUCCEEDED, 1)


def test_messages_leave_only_after_the_commit(bench: Bench, snapshot: Snapshot) -> None:
    with pytest.raises(IllegalTransition):
        send_and_break(bench, snapshot.job.id)
    assert bench.messages == []
    assert not look(bench, snapshot.job.id).job.stop_requested


def test_same_message_of_one_unit_leaves_once(bench: Bench) -> None:
    with bench.context.unit() as unit:
        unit.send("advance", "job_1")
        unit.send("advance", "job_1")
    assert bench.messages == [("advance", "job_1")]


def test_broker_that_is_away_does_not_undo_the_commit(bench: Bench, snapshot: Snapshot) -> None:
    bench.is_broker_away = True
    apply(bench.context, snapshot, Decision(tasks=(NewTask("score", "score:a"),)))
    assert look(bench, snapshot.job.id).tasks.keys() == {"score:a"}


def test_skeleton_that_was_swept_before_its_request_was_written_is_asked_for_again(
    bench: Bench, snapshot: Snapshot
) -> None:
    bench.context.store.remove(BLOB.location)
    with pytest.raises(ArtifactNotFound):
        apply(bench.context, snapshot, Decision(requests=(REQUEST,)))
    assert look(bench, snapshot.job.id).requests == {}
    bench.context.store.put(BLOB.location, b"x")
    apply(bench.context, snapshot, Decision(requests=(REQUEST,)))
    bench.context.store.remove(BLOB.location)
    again = replace(REQUEST, purpose="screening:b")
    apply(bench.context, look(bench, snapshot.job.id), Decision(requests=(again,)))
    assert set(look(bench, snapshot.job.id).requests) == {"screening:a", "screening:b"}
