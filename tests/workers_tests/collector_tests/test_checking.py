"""A check of a device: one measurement at a time, whatever dies in between, and one result."""

from __future__ import annotations

import pytest

from jobs.checking import CheckSettings
from jobs.repository import checks, devices
from jobs.states import CheckState, DeviceState, RequestState
from jobs.tables import Check, Request
from latency_probes.messages import MeasureError, Target, encode
from latency_probes.samples import Measurement
from tests.workers_tests.collector_tests.test_collector import collector
from tests.workers_tests.collector_tests.yard import Yard, answer_to
from tests.workers_tests.rows import measured
from workers.collector.checking import check_devices
from workers.collector.dispatching import dispatch
from workers.collector.ingesting import ingest
from workers.collector.streams import Entry

SHORT = CheckSettings(screening=2, strict=1, replicates=6, every_s=5.0)
NOISY = measured(1010, 1000, kind="strict", spread=0.1).model_copy(update={"verdict": "noisy"})
CRASH = MeasureError(kind="crashed", message="signal 11")
UNSUPPORTED = MeasureError(kind="unsupported_op", message="no Einsum")


def add_check(yard: Yard, device_id: str, **target: int) -> str:
    digest = yard.look_at(yard.request("a model")).skeleton_digest
    with yard.bench.write() as session:
        return checks.create(
            session,
            device_id,
            workload="net",
            skeleton_digest=digest,
            target=Target(runtime="replay", **target),
            settings=SHORT,
            now=yard.bench.now,
        ).id


def look(yard: Yard, check_id: str) -> Check:
    with yard.context.read() as session:
        found = checks.find(session, check_id)
    if found is None:
        raise LookupError(check_id)
    return found


def asked(yard: Yard, check_id: str) -> list[Request]:
    with yard.context.read() as session:
        return list(checks.requests_of(session, check_id))


def turn(yard: Yard) -> None:
    check_devices(yard.context)
    dispatch(yard.context, yard.streams)
    check_devices(yard.context)


def answer(yard: Yard, request: Request, outcome: Measurement | MeasureError) -> None:
    entry = Entry(str(request.device_id), "1-0", encode(answer_to(request, outcome)))
    with yard.context.unit() as unit:
        ingest(unit, entry, yard.context.clock())


def play(yard: Yard, check_id: str, *outcomes: Measurement | MeasureError) -> Check:
    for outcome in outcomes:
        turn(yard)
        answer(yard, asked(yard, check_id)[-1], outcome)
        yard.later(SHORT.every_s)
        with yard.bench.write() as session:
            devices.heartbeat(
                session, look(yard, check_id).device_id, DeviceState.ONLINE, yard.context.clock()
            )
    turn(yard)
    return look(yard, check_id)


@pytest.fixture
def check_id(yard: Yard) -> str:
    return add_check(yard, yard.device())


def test_one_model_is_measured_against_itself_on_this_device(yard: Yard, check_id: str) -> None:
    turn(yard)
    (request,) = asked(yard, check_id)
    assert request.skeleton_digest == request.reference_digest
    assert (request.purpose, request.selector) == (
        "screening:0",
        f"id:{look(yard, check_id).device_id}",
    )
    check = look(yard, check_id)
    assert (check.state, check.progress) == (CheckState.RUNNING, {"ended": 0, "of": 3})


def test_the_next_one_waits_for_the_last_and_for_its_time(yard: Yard, check_id: str) -> None:
    turn(yard)
    yard.later(60)
    turn(yard)
    (first,) = asked(yard, check_id)
    answer(yard, first, measured(1000, 1000))
    turn(yard)
    assert len(asked(yard, check_id)) == 2
    answer(yard, asked(yard, check_id)[1], measured(1000, 1000))
    turn(yard)
    assert len(asked(yard, check_id)) == 2
    assert look(yard, check_id).progress == {"ended": 2, "of": 3}
    yard.later(SHORT.every_s)
    turn(yard)
    assert len(asked(yard, check_id)) == 3


def test_the_last_answer_brings_the_result(yard: Yard, check_id: str) -> None:
    check = play(yard, check_id, measured(1000, 1000), measured(1030, 1000), NOISY)
    assert (check.state, check.finished_at) == (CheckState.DONE, yard.bench.now)
    assert check.progress == {"ended": 3, "of": 3}
    result = check.result or {}
    assert [each["kind"] for each in result["trials"]] == ["screening", "screening", "strict"]
    assert result["within_1_percent"] == pytest.approx(2 / 3)
    assert (len(result["history"]), result["errors"]) == (3, [])
    assert yard.bench.take_messages() == []
    assert yard.look_at(asked(yard, check_id)[2].id).attempt == 1


def test_a_check_waits_for_its_device_and_says_so(yard: Yard) -> None:
    device_id = yard.device()
    check_id = add_check(yard, device_id)
    with yard.bench.write() as session:
        devices.drain(session, device_id)
    turn(yard)
    assert f"id:{device_id}" in (look(yard, check_id).waiting_for or "")
    with yard.bench.write() as session:
        devices.resume(session, device_id)
        devices.heartbeat(session, device_id, DeviceState.ONLINE, yard.context.clock())
    turn(yard)
    check = look(yard, check_id)
    assert (check.waiting_for, check.state) == (None, CheckState.RUNNING)


def test_a_check_waits_for_a_runtime_that_its_device_lacks(yard: Yard) -> None:
    check_id = add_check(yard, yard.device(), threads=64)
    turn(yard)
    check = look(yard, check_id)
    assert "64 thread(s)" in (check.waiting_for or "")
    assert check.state == CheckState.PENDING


def test_a_model_that_the_device_cannot_run_ends_the_check_at_once(
    yard: Yard, check_id: str
) -> None:
    check = play(yard, check_id, UNSUPPORTED)
    assert (check.state, check.error) == (CheckState.FAILED, "unsupported_op: no Einsum")


def test_a_crash_is_tried_again_and_a_later_failure_is_told(yard: Yard, check_id: str) -> None:
    good = measured(1000, 1000)
    check = play(yard, check_id, CRASH, good, UNSUPPORTED, measured(1000, 1000, kind="strict"))
    assert check.state == CheckState.DONE
    assert (check.result or {})["errors"] == ["unsupported_op: no Einsum"]
    assert [each.attempt for each in asked(yard, check_id)] == [2, 1, 1]


def test_one_good_trial_is_not_enough(yard: Yard, check_id: str) -> None:
    check = play(yard, check_id, measured(1000, 1000), UNSUPPORTED, UNSUPPORTED)
    assert (check.state, check.error) == (CheckState.FAILED, "unsupported_op: no Einsum")


def test_the_check_of_a_revoked_device_fails(yard: Yard, check_id: str) -> None:
    turn(yard)
    with yard.bench.write() as session:
        devices.revoke(session, look(yard, check_id).device_id)
    turn(yard)
    check = look(yard, check_id)
    assert (check.state, check.error) == (CheckState.FAILED, "the device was revoked")
    assert asked(yard, check_id)[0].state == RequestState.FAILED


def test_a_check_that_cannot_go_on_ends_and_does_not_hold_up_the_others(yard: Yard) -> None:
    device_id = yard.device()
    spoilt, good = add_check(yard, device_id), add_check(yard, device_id)
    with yard.bench.write() as session:
        for check in checks.live(session):
            if check.id == spoilt:
                check.target = {"runtime": 7}
    turn(yard)
    assert "could not go on" in (look(yard, spoilt).error or "")
    assert len(asked(yard, good)) == 1


def test_any_collector_takes_a_check_up_where_it_is(yard: Yard, check_id: str) -> None:
    assert collector(yard, "first").turn()
    yard.later(3600)
    assert collector(yard, "second").turn()
    assert len(asked(yard, check_id)) == 1
