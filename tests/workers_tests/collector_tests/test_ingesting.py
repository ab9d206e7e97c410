"""What devices say is checked before it is believed, and counted once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jobs.repository import devices, measurements, requests
from jobs.states import DeviceState, RequestState
from latency_probes.messages import (
    Capabilities,
    Heartbeat,
    Hello,
    MeasureError,
    RuntimeInfo,
    encode,
)
from latency_probes.samples import PROTOCOL
from tests.workers_tests.collector_tests.yard import NOON, Yard, answer_to, heartbeat, text_of
from tests.workers_tests.rows import measured
from workers.collector.dispatching import dispatch
from workers.collector.ingesting import MAX_ATTEMPTS, MAX_SCREENINGS, ingest
from workers.collector.streams import Entry
from workers.collector.sweeping import sweep


def take_in(yard: Yard, device_id: str, text: str) -> None:
    with yard.context.unit() as unit:
        ingest(unit, Entry(device_id, "1-0", text), yard.context.clock())


def dispatched(yard: Yard) -> tuple[str, str]:
    """A request that a device has; their ids."""
    device_id, request_id = yard.device(), yard.request("screening:a")
    dispatch(yard.context, yard.streams)
    return device_id, request_id


def count(yard: Yard, *, counted_only: bool) -> int:
    with yard.context.read() as session:
        return len(measurements.for_job(session, yard.job_id, counted_only=counted_only))


def test_result_ends_its_request_and_wakes_the_job(yard: Yard) -> None:
    device_id, request_id = dispatched(yard)
    take_in(yard, device_id, text_of(yard.look_at(request_id)))
    request = yard.look_at(request_id)
    assert request.state == RequestState.DONE
    with yard.context.read() as session:
        row = measurements.find(session, request.measurement_id or "")
    assert row is not None
    assert row.ratio is not None
    assert abs(row.ratio - 0.6) < 1e-9
    assert (row.raw or {})["replicates"]
    assert yard.bench.take_messages() == [("advance", yard.job_id)]


def test_typed_error_ends_its_request_as_failed(yard: Yard) -> None:
    device_id, request_id = dispatched(yard)
    error = MeasureError(kind="unsupported_op", message="no Einsum")
    take_in(yard, device_id, text_of(yard.look_at(request_id), error))
    assert yard.look_at(request_id).state == RequestState.FAILED
    assert yard.bench.take_messages() == [("advance", yard.job_id)]


def test_result_delivered_twice_is_stored_once(yard: Yard) -> None:
    device_id, request_id = dispatched(yard)
    text = text_of(yard.look_at(request_id))
    take_in(yard, device_id, text)
    take_in(yard, device_id, text)
    assert count(yard, counted_only=False) == 1


def test_late_result_of_a_lost_lease_is_kept_and_not_counted(yard: Yard) -> None:
    device_id, request_id = dispatched(yard)
    late = text_of(yard.look_at(request_id))
    yard.later(60)
    with yard.bench.write() as session:
        requests.release(session, request_id, 1)
    take_in(yard, device_id, late)
    assert (count(yard, counted_only=True), count(yard, counted_only=False)) == (0, 1)
    assert yard.look_at(request_id).state == RequestState.PENDING
    assert yard.bench.take_messages() == []


def test_result_for_another_device_s_request_is_not_counted(yard: Yard) -> None:
    _, request_id = dispatched(yard)
    thief = yard.device("thief")
    take_in(yard, thief, text_of(yard.look_at(request_id)))
    assert count(yard, counted_only=True) == 0
    assert yard.look_at(request_id).state == RequestState.DISPATCHED


def test_answer_to_an_unknown_or_unassigned_request_is_dropped(yard: Yard) -> None:
    device_id = yard.device()
    unassigned = yard.request("screening:b", selector="id:nobody")
    take_in(yard, device_id, text_of(yard.look_at(unassigned)))
    text = text_of(yard.look_at(unassigned)).replace(unassigned, "req_gone")
    take_in(yard, device_id, text)
    assert count(yard, counted_only=False) == 0
    assert yard.bench.take_messages() == []


def test_malformed_message_is_noted_at_its_device_and_dropped(yard: Yard) -> None:
    device_id = yard.device()
    for text in ("", "{", '{"type": "result"}', "x" * 2**21):
        take_in(yard, device_id, text)
        problem = yard.look_at_device(device_id).problem or {}
        assert problem["title"] == "The device sent a malformed message"
        assert len(problem["detail"]) <= 500


def test_problem_is_gone_once_the_device_sends_something_valid(yard: Yard) -> None:
    device_id = yard.device()
    take_in(yard, device_id, "{")
    assert yard.look_at_device(device_id).problem is not None
    take_in(yard, device_id, heartbeat())
    assert yard.look_at_device(device_id).problem is not None  # it is no news of what it sent
    take_in(yard, device_id, encode(Hello(capabilities=Capabilities(cores=1, runtimes={}))))
    assert yard.look_at_device(device_id).problem is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"version":1', '"version":2', "version"),
        ('"type":"result"', '"type":"hello"', "capabilities"),
        ('"candidate_ns":[[600]]', '"candidate_ns":[[NaN]]', "candidate_ns"),
        ('"candidate_ns":[[600]]', '"candidate_ns":[[-600]]', "greater than or equal to 1"),
        ('"candidate_ns":[[600]]', '"candidate_ns":[[99999999999999]]', "less than or equal"),
        ('"latency_ms":0.0006', '"latency_ms":Infinity', "latency_ms"),
        ('"outcome":{', '"outcome":{"col\\u0000our":"red",', "col?our"),
        ('"ratio":0.6', '"ratio":0.1', "ratio must follow from the samples"),
        ('"latency_ms":0.0006', '"latency_ms":0.0005', "latency_ms must follow"),
        ('"reference_ms":0.001', '"reference_ms":0.002', "reference_ms must follow"),
        ('"p99_ns":null', '"p99_ns":2', "candidate must follow"),
        ('"warm":true', '"warm":false', "verdict must be unstable (3 of 3 replicates"),
        ('"kind":"screening"', '"kind":"strict"', "a screening measurement was asked for"),
        (f'"protocol":{PROTOCOL}', '"protocol":99', f"protocol {PROTOCOL}, but got 99"),
    ],
)
def test_result_that_no_agent_of_ours_sends_ends_the_request_and_counts_as_none(
    yard: Yard, old: str, new: str, reason: str
) -> None:
    device_id, request_id = dispatched(yard)
    text = text_of(yard.look_at(request_id))
    assert old in text
    take_in(yard, device_id, text.replace(old, new))
    assert (yard.look_at_device(device_id).problem or {})["title"].endswith("malformed message")
    assert yard.look_at(request_id).state == RequestState.FAILED
    with yard.context.read() as session:
        (row,) = measurements.for_job(session, yard.job_id)
    assert (row.error_kind, row.ratio) == ("invalid", None)
    assert "the server refused the result" in (row.error_message or "")
    assert reason in (row.error_message or "")


def test_fewer_replicates_than_asked_for_are_not_ok(yard: Yard) -> None:
    device_id, request_id = yard.device(), yard.request("dense")
    dispatch(yard.context, yard.streams)
    few = measured(1000, 1000).model_copy(update={"kind": "strict"})
    take_in(yard, device_id, text_of(yard.look_at(request_id), few))
    problem = (yard.look_at_device(device_id).problem or {})["detail"]
    assert (
        problem == "the verdict must be noisy (only 3 of 6 replicates fit into 300 s), but got ok"
    )


@pytest.mark.parametrize("forgery", [{"lease_token": "guess"}, {"attempt": 7}])
def test_result_under_a_forged_lease_does_not_count(yard: Yard, forgery: dict[str, Any]) -> None:
    device_id, request_id = dispatched(yard)
    forged = answer_to(yard.look_at(request_id)).model_copy(update=forgery)
    take_in(yard, device_id, encode(forged))
    assert yard.look_at(request_id).state == RequestState.DISPATCHED
    assert count(yard, counted_only=True) == 0


def test_answers_under_leases_that_were_never_given_are_dropped_and_counted(yard: Yard) -> None:
    device_id, request_id = dispatched(yard)
    evil = yard.device("evil")
    asked = yard.look_at(request_id)
    for sender in (device_id, evil):
        for token, attempt in (("a", 1), ("b", 1), ("c", 0), ("d", 2)):
            forged = {"lease_token": token, "attempt": attempt}
            take_in(yard, sender, encode(answer_to(asked).model_copy(update=forged)))
    take_in(yard, evil, text_of(asked))
    take_in(yard, evil, text_of(asked).replace(request_id, "req_gone"))

    assert count(yard, counted_only=False) == 0
    assert yard.look_at_device(device_id).dropped_answers == 4
    assert yard.look_at_device(evil).dropped_answers == 6
    take_in(yard, device_id, text_of(asked))
    assert count(yard, counted_only=True) == 1


def test_a_request_keeps_one_answer_to_each_lost_lease(yard: Yard) -> None:
    device_id, request_id = dispatched(yard)
    late = answer_to(yard.look_at(request_id))
    with yard.bench.write() as session:
        requests.release(session, request_id, 1)
    for token in ("invented", str(late.lease_token), "again"):
        take_in(yard, device_id, encode(late.model_copy(update={"lease_token": token})))

    assert count(yard, counted_only=False) == 1
    assert yard.look_at_device(device_id).dropped_answers == 2


def test_malformed_answers_under_invented_leases_leave_no_rows(yard: Yard) -> None:
    device_id, request_id = dispatched(yard)
    text = text_of(yard.look_at(request_id)).replace('"candidate_ns":[[600]]', '"candidate_ns":0')
    token = str(yard.look_at(request_id).lease_token)
    for number in range(5):
        take_in(yard, device_id, text.replace(token, f"invented{number}"))

    assert count(yard, counted_only=False) == 0
    assert yard.look_at(request_id).state == RequestState.DISPATCHED


def test_dropped_answers_are_logged_ever_more_seldom(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    device_id, request_id = dispatched(yard)
    forged = answer_to(yard.look_at(request_id)).model_copy(update={"lease_token": "guess"})
    for _ in range(20):
        take_in(yard, device_id, encode(forged))

    told = [record.getMessage().split(";")[1] for record in caplog.records]
    assert told == [f" {count} answers dropped so far" for count in (1, 2, 4, 8, 16)]


def test_number_that_no_column_holds_does_not_stop_the_collector(yard: Yard) -> None:
    device_id, request_id = dispatched(yard)
    text = text_of(yard.look_at(request_id)).replace('"attempt":1', f'"attempt":{10**30}')
    take_in(yard, device_id, text)
    assert yard.look_at(request_id).state == RequestState.DISPATCHED
    assert "attempt" in (yard.look_at_device(device_id).problem or {})["detail"]


def test_heartbeat_says_that_the_device_lives_and_what_it_does(yard: Yard) -> None:
    device_id = yard.device()
    yard.later(10)
    take_in(yard, device_id, heartbeat("busy"))
    device = yard.look_at_device(device_id)
    assert (device.state, device.last_seen) == (DeviceState.BUSY, yard.bench.now)


def test_clock_of_a_device_that_is_hours_off_changes_nothing(yard: Yard) -> None:
    device_id = yard.device()
    for hours in (-30, 30):
        yard.later(10)
        skewed = Heartbeat(state="online", sent_at=NOON + timedelta(hours=hours), cores=(0,))
        take_in(yard, device_id, encode(skewed))
        device = yard.look_at_device(device_id)
        assert (device.state, device.last_seen) == (DeviceState.ONLINE, yard.bench.now)
    sweep(yard.context, yard.streams)
    assert yard.look_at_device(device_id).state == DeviceState.ONLINE


def test_hello_replaces_what_the_device_was(yard: Yard) -> None:
    device_id = yard.device()
    now = Capabilities(
        cores=4, runtimes={"new": RuntimeInfo(version="2", providers=("A",))}, power="battery"
    )
    take_in(yard, device_id, encode(Hello(capabilities=now)))
    assert yard.look_at_device(device_id).capabilities == now.model_dump(mode="json")


def test_revoked_device_says_nothing_that_is_kept(yard: Yard) -> None:
    device_id = yard.device()
    before = yard.look_at_device(device_id).capabilities
    with yard.bench.write() as session:
        devices.revoke(session, device_id)
    take_in(yard, device_id, encode(Hello(capabilities=Capabilities(cores=4, runtimes={}))))
    take_in(yard, device_id, heartbeat())
    device = yard.look_at_device(device_id)
    assert (device.state, device.capabilities) == (DeviceState.REVOKED, before)


def test_error_that_may_not_come_again_is_measured_once_more_but_not_for_ever(yard: Yard) -> None:
    device_id, request_id = yard.device(), yard.request("one")
    crash = MeasureError(kind="crashed", message="killed")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        dispatch(yard.context, yard.streams)
        asked = yard.look_at(request_id)
        assert asked.attempt == attempt
        take_in(yard, device_id, text_of(asked, crash))
    ended = yard.look_at(request_id)
    assert ended.state == RequestState.FAILED
    with yard.context.read() as session:
        counted = measurements.for_job(session, yard.job_id)
    assert [row.id for row in counted] == [ended.measurement_id]


@pytest.mark.parametrize(
    ("kind", "verdict", "candidate_ns", "attempts"),
    [("strict", "noisy", 600, MAX_ATTEMPTS), ("strict", "throttled", 950, MAX_ATTEMPTS),
     ("strict", "ok", 600, 1), ("screening", "throttled", 600, MAX_SCREENINGS),
     ("screening", "throttled", 950, 1), ("screening", "noisy", 600, 1)],
)  # fmt: skip
def test_disturbed_measurement_is_taken_again_but_not_for_ever(
    yard: Yard, kind: str, verdict: str, candidate_ns: int, attempts: int
) -> None:
    purpose = "dense" if kind == "strict" else "screening:a"
    device_id, request_id = yard.device(), yard.request(purpose)
    found = measured(candidate_ns, 1000, kind=kind).model_copy(update={"verdict": verdict})
    for attempt in range(1, attempts + 1):
        dispatch(yard.context, yard.streams)
        asked = yard.look_at(request_id)
        assert asked.attempt == attempt
        take_in(yard, device_id, text_of(asked, found))
    assert yard.look_at(request_id).state == RequestState.DONE
    assert count(yard, counted_only=False) == attempts
    assert count(yard, counted_only=True) == 1
