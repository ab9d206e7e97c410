"""Requests are assigned, put into their device's stream, and jobs are told what they wait for."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from jobs.artifacts import skeleton_name
from jobs.repository import events, jobs, measurements, requests, skeletons
from jobs.states import RequestState
from jobs.tables import Base, Device, Request
from tests.workers_tests.collector_tests.yard import Yard
from workers.collector.dispatching import dispatch, send


def waiting_for(yard: Yard) -> str | None:
    with yard.context.read() as session:
        job = jobs.find(session, yard.job_id)
    return job.waiting_for if job is not None else "no job"


def test_request_reaches_its_device_with_the_candidate_inline(yard: Yard) -> None:
    device_id, request_id = yard.device(), yard.request("screening:a")
    assert dispatch(yard.context, yard.streams) == 1
    (message,) = yard.received(device_id)
    request = yard.look_at(request_id)
    assert (message.request_id, message.attempt) == (request_id, 1)
    assert message.lease_token == request.lease_token
    assert message.candidate.unpack() == b"screening:a"
    assert message.reference.data is None
    assert (request.state, request.device_id) == (RequestState.DISPATCHED, device_id)


def test_nothing_is_sent_twice(yard: Yard) -> None:
    device_id = yard.device()
    yard.request("screening:a")
    dispatch(yard.context, yard.streams)
    assert dispatch(yard.context, yard.streams) == 0
    assert len(yard.received(device_id)) == 1


def test_assigned_request_that_never_left_is_sent(yard: Yard) -> None:
    device_id, request_id = yard.device(), yard.request("screening:a")
    with yard.bench.write() as session:
        requests.assign(session, request_id, device_id, yard.context.clock(), yard.lease_s)
    assert dispatch(yard.context, yard.streams) == 1
    assert [each.request_id for each in yard.received(device_id)] == [request_id]


def test_job_is_told_what_it_waits_for_and_when_it_does_no_more(yard: Yard) -> None:
    yard.request("screening:a", selector="label:room=lab")
    assert dispatch(yard.context, yard.streams) == 0
    assert "label:room=lab" in (waiting_for(yard) or "")
    yard.device(labels={"room": "lab"})
    dispatch(yard.context, yard.streams)
    assert waiting_for(yard) is None


def test_job_whose_device_is_only_full_waits_for_nothing(yard: Yard) -> None:
    yard.device()
    for index in range(4):
        yard.request(f"screening:{index}")
    assert dispatch(yard.context, yard.streams) == 2
    assert waiting_for(yard) is None


def test_request_that_is_not_assigned_cannot_be_sent(yard: Yard) -> None:
    with pytest.raises(LookupError, match="must be assigned"):
        send(yard.context, yard.streams, yard.look_at(yard.request("screening:a")))


def test_skeleton_that_is_not_stored_cannot_be_sent(yard: Yard) -> None:
    unknown = Request(
        id="req_1", attempt=1, device_id="dev_1", lease_token="t", skeleton_digest="0" * 64,
        reference_digest="0" * 64, target={}, settings={},
    )  # fmt: skip
    with pytest.raises(LookupError, match="must be stored"):
        send(yard.context, yard.streams, unknown)
    with yard.context.read() as session:
        assert skeletons.find(session, "0" * 64) is None


def test_request_whose_skeleton_is_gone_ends_and_does_not_hold_up_the_others(yard: Yard) -> None:
    device_id, lost = yard.device(), yard.request("screening:a")
    digest = yard.look_at(lost).skeleton_digest
    yard.context.store.remove(skeleton_name(digest))
    kept = yard.request("screening:b")
    dispatch(yard.context, yard.streams)
    assert [each.request_id for each in yard.received(device_id)] == [kept]
    assert yard.look_at(lost).state == RequestState.FAILED
    with yard.context.read() as session:
        (row,) = measurements.for_job(session, yard.job_id)
    assert row.error_kind == "invalid"
    assert "the server cannot send it" in (row.error_message or "")
    assert ("advance", yard.job_id) in yard.bench.take_messages()


def damage(yard: Yard, table: type[Base], row_id: str, **values: object) -> None:
    """What another version may have written."""
    with yard.bench.write() as session:
        session.execute(update(table).where(table.__table__.c.id == row_id).values(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"settings": {"kind": "thorough"}}, {"settings": []}, {"target": {"gpu": 1}},
        {"selector": "near:me"},
    ],
)  # fmt: skip
def test_request_that_cannot_be_read_ends_alone_and_its_job_is_told(
    yard: Yard, values: dict[str, object]
) -> None:
    device_id, bad, good = yard.device(), yard.request("a"), yard.request("b")
    damage(yard, Request, bad, **values)
    dispatch(yard.context, yard.streams)
    assert yard.look_at(bad).state == RequestState.FAILED
    assert [each.request_id for each in yard.received(device_id)] == [good]
    assert yard.bench.take_messages() == [("advance", yard.job_id)]
    with yard.context.read() as session:
        last = events.after(session, yard.job_id, 0)[-1]
    assert (last.kind, last.data["purpose"]) == ("unreadable", "a")


@pytest.mark.parametrize(
    "values",
    [
        {"capabilities": {"runtimes": ["replay"]}}, {"capabilities": {"cores": "four"}},
        {"capabilities": {"runtimes": {"replay": {}}}},
    ],
)  # fmt: skip
def test_device_that_cannot_be_read_gets_no_work_and_holds_up_no_other(
    yard: Yard, values: dict[str, object]
) -> None:
    bad, good, request_id = yard.device(), yard.device("other"), yard.request("a")
    damage(yard, Device, bad, **values)
    dispatch(yard.context, yard.streams)
    assert yard.look_at(request_id).device_id == good
    problem = yard.look_at_device(bad).problem
    assert (problem or {})["title"] == "What the device announced cannot be read"
