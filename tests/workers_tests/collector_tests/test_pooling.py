"""Devices of one kind measure a job together; others stay out, and those that drift leave."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.pools import DRIFT_WINDOW
from jobs.repository import devices, events, jobs, measurements, pools
from jobs.states import DeviceState, RequestState
from latency_probes.messages import MeasureError
from latency_probes.samples import Measurement
from tests.workers_tests.collector_tests.yard import Yard, text_of
from tests.workers_tests.rows import CAPABILITIES, measured
from workers.collector.dispatching import dispatch
from workers.collector.ingesting import ingest
from workers.collector.pooling import LEAST_WAITING
from workers.collector.streams import Entry

DENSE_NS = 1_000_000


class Devices:
    """Made-up devices that answer what they are given, one request a round each."""

    def __init__(self, yard: Yard, count: int, **more: Any) -> None:
        self.yard = yard
        self.ids = [yard.device(f"board-{number}", **more) for number in range(count)]
        self.reference_ns = dict.fromkeys(self.ids, DENSE_NS)
        self.answered: dict[str, list[str]] = {each: [] for each in self.ids}
        self.always: dict[str, Measurement | MeasureError] = {}
        self.deliveries = 1

    def round(self) -> int:
        """Hands out, then lets every device answer its oldest request; returns how many did."""
        dispatch(self.yard.context, self.yard.streams)
        return sum(self.answer(device_id) for device_id in self.ids)

    def rounds(self) -> int:
        """Rounds until nobody has anything to answer."""
        count = 0
        while self.round():
            count += 1
        return count

    def answer(self, device_id: str) -> bool:
        held = self.yard.held(device_id)
        if not held:
            return False
        request, reference_ns = held[0], self.reference_ns[device_id]
        is_strict = request.purpose.startswith(("dense", "join:"))
        candidate_ns = reference_ns if is_strict else round(0.6 * reference_ns)
        kind = "strict" if is_strict else "screening"
        usual = measured(candidate_ns, reference_ns, kind=kind)
        found = self.always.get(device_id, usual)
        entry = Entry(device_id, "1-0", text_of(request, found))
        with self.yard.context.unit() as unit:
            for _ in range(self.deliveries):
                ingest(unit, entry, self.yard.context.clock())
        self.yard.later(1)
        self.answered[device_id].append(request.purpose)
        return True


def begun(yard: Yard, count: int, **more: Any) -> Devices:
    """Devices, the first of which has measured the dense model."""
    made = Devices(yard, count, **more)
    yard.request("dense", selector=f"id:{made.ids[0]}")
    assert made.rounds() == 1
    return made


def ask(yard: Yard, devices_: Devices, count: int) -> list[str]:
    selector = f"pool:{devices_.ids[0]}"
    return [yard.request(f"screening:{number}", selector=selector) for number in range(count)]


def log(yard: Yard, *kinds: str) -> list[dict[str, Any]]:
    with yard.context.read() as session:
        found = events.after(session, yard.job_id, 0, 1000)
    return [event.data for event in found if event.kind in kinds]


def counted(yard: Yard) -> list[Any]:
    with yard.context.read() as session:
        rows = measurements.for_job(session, yard.job_id)
    return [row for row in rows if row.kind == "screening"]


@pytest.mark.parametrize(("count", "most"), [(1, 16), (2, 10), (4, 7)])
def test_more_devices_answer_in_fewer_rounds(yard: Yard, count: int, most: int) -> None:
    devices_ = begun(yard, count)
    asked = ask(yard, devices_, 16)
    assert devices_.rounds() <= most
    assert {yard.look_at(each).state for each in asked} == {RequestState.DONE}
    assert len(counted(yard)) == 16
    assert len(log(yard, pools.JOINED)) == count - 1


def test_one_device_is_asked_nothing_more_than_before(yard: Yard) -> None:
    devices_ = begun(yard, 1)
    ask(yard, devices_, 10)
    devices_.rounds()
    assert sorted(yard.purposes()) == ["dense", *(f"screening:{n}" for n in range(10))]
    assert sorted(devices_.answered[devices_.ids[0]]) == sorted(yard.purposes())
    assert log(yard, pools.JOINED, pools.REFUSED, pools.ASIDE, pools.DRIFTED) == []


def test_few_requests_are_not_worth_joining_for(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    ask(yard, devices_, LEAST_WAITING + 1)  # two of them are given to the first device at once
    devices_.rounds()
    assert devices_.answered[devices_.ids[1]] == []


def test_device_of_another_kind_is_not_asked(yard: Yard) -> None:
    devices_ = begun(yard, 1)
    yard.device("other", capabilities=CAPABILITIES | {"cores": 8})
    yard.device("window", labels={"pool": "window"})
    ask(yard, devices_, 6)
    devices_.rounds()
    assert [each for each in yard.purposes() if each.startswith("join:")] == []


def test_pinned_requests_stay_with_the_first_device(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    ask(yard, devices_, 10)
    strict = yard.request("strict:a", selector=f"id:{devices_.ids[0]}")
    devices_.rounds()
    assert yard.look_at(strict).device_id == devices_.ids[0]
    assert devices_.answered[devices_.ids[1]]


def test_a_job_that_chose_a_runtime_is_joined_and_watched_in_that_one(yard: Yard) -> None:
    """What was measured in another runtime has another reference, which is no drift."""
    info = CAPABILITIES["runtimes"]["replay"]  # type: ignore[index]
    both = CAPABILITIES | {"runtimes": {"replay": info, "other": info}}
    devices_ = begun(yard, 2, capabilities=both)
    own = f"id:{devices_.ids[0]}"
    for number in range(DRIFT_WINDOW - 1):
        yard.request(f"int8:replay:{number}", selector=own)
    devices_.rounds()
    devices_.reference_ns = dict.fromkeys(devices_.ids, 2 * DENSE_NS)
    yard.request("dense:other", selector=own, runtime="other")
    devices_.rounds()
    for number in range(10):
        yard.request(f"screening:{number}", selector=f"pool:{devices_.ids[0]}", runtime="other")
    devices_.rounds()
    assert log(yard, pools.REFUSED, pools.ASIDE, pools.DRIFTED) == []
    (told,) = log(yard, pools.JOINED)
    assert told["reference_ms"] == 2.0
    assert any(each.startswith("screening") for each in devices_.answered[devices_.ids[1]])


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (measured(1_030_000, DENSE_NS, kind="strict"), "against itself took 1.0300"),
        (MeasureError(kind="unsupported_op", message="no Conv"), "unsupported_op no Conv"),
    ],
)
def test_device_that_differs_is_refused_with_a_reason(
    yard: Yard, outcome: Measurement | MeasureError, reason: str
) -> None:
    devices_ = begun(yard, 2)
    ask(yard, devices_, 8)
    devices_.always[devices_.ids[1]] = outcome
    devices_.rounds()
    (told,) = log(yard, pools.REFUSED)
    assert reason in told["reason"]
    assert {row.device_id for row in counted(yard)} == {devices_.ids[0]}


def test_drifting_device_is_set_aside_and_what_it_measured_since_is_asked_again(
    yard: Yard,
) -> None:
    devices_ = begun(yard, 2)
    first, second = devices_.ids
    asked = ask(yard, devices_, 20)
    while len(devices_.answered[second]) < 4:
        devices_.round()
    devices_.reference_ns[second] = round(1.2 * DENSE_NS)
    devices_.rounds()
    (told,) = log(yard, pools.ASIDE)
    assert (told["device"], told["name"]) == (second, "board-1")
    assert "reference latency went from 1 to 1.2 ms" in told["reason"]
    assert told["asked_again"] == DRIFT_WINDOW // 2 + 1
    assert {yard.look_at(each).state for each in asked} == {RequestState.DONE}
    rows = counted(yard)
    assert len(rows) == 20
    assert {row.reference_ms for row in rows} == {1.0}
    assert {row.device_id for row in rows} == {first, second}


def test_first_device_is_set_aside_too_but_keeps_what_is_pinned(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    first, second = devices_.ids
    ask(yard, devices_, 18)
    while not devices_.answered[second]:
        devices_.round()
    devices_.reference_ns[first] = round(0.9 * DENSE_NS)
    strict = yard.request("strict:a", selector=f"id:{first}")
    devices_.rounds()
    assert [told["device"] for told in log(yard, pools.ASIDE)] == [first]
    assert yard.look_at(strict).device_id == first


def test_answer_that_is_delivered_twice_is_told_once(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    devices_.deliveries = 2
    ask(yard, devices_, 8)
    devices_.rounds()
    assert [told["device"] for told in log(yard, pools.JOINED)] == devices_.ids[1:]
    assert len(counted(yard)) == 8


def test_device_whose_runtime_was_updated_meanwhile_is_set_aside(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    second = devices_.ids[1]
    ask(yard, devices_, 14)
    while len(devices_.answered[second]) < 3:
        devices_.round()
    usual = measured(600_000, DENSE_NS)
    devices_.always[second] = usual.model_copy(update={"runtime_version": "2"})
    devices_.rounds()
    (told,) = log(yard, pools.ASIDE)
    assert told["device"] == second
    assert told["reason"] == "it runs version 2 of its runtime, the job began with 1"
    assert told["asked_again"] == 1
    assert {row.runtime_version for row in counted(yard)} == {"1"}


def test_last_device_goes_on_though_it_drifts_and_that_is_told_once(yard: Yard) -> None:
    devices_ = begun(yard, 1)
    devices_.reference_ns[devices_.ids[0]] = round(1.2 * DENSE_NS)
    ask(yard, devices_, 8)
    devices_.rounds()
    assert log(yard, pools.ASIDE) == []
    assert [told["device"] for told in log(yard, pools.DRIFTED)] == devices_.ids
    assert len(counted(yard)) == 8


def test_device_whose_partner_is_away_counts_as_the_last(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    ask(yard, devices_, 14)
    while not devices_.answered[devices_.ids[1]]:
        devices_.round()
    leave(yard, devices_.ids[1])
    devices_.ids = devices_.ids[:1]
    devices_.reference_ns[devices_.ids[0]] = round(1.2 * DENSE_NS)
    devices_.rounds()
    assert log(yard, pools.ASIDE) == []
    assert len(log(yard, pools.DRIFTED)) == 1


def test_device_set_aside_is_called_back_once_nobody_else_is_left(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    first, second = devices_.ids
    asked = ask(yard, devices_, 12)
    while not devices_.answered[second]:
        devices_.round()
    devices_.reference_ns[first] = round(1.2 * DENSE_NS)
    while not log(yard, pools.ASIDE):
        devices_.round()
    held = yard.held(second)
    leave(yard, second)
    devices_.ids = [first]
    assert devices_.rounds() > 0
    open_ = [each for each in asked if yard.look_at(each).state != RequestState.DONE]
    assert sorted(open_) == sorted(request.id for request in held)


def leave(yard: Yard, device_id: str) -> None:
    """The device is gone, with what it was given."""
    with yard.bench.write() as session:
        devices.heartbeat(session, device_id, DeviceState.OFFLINE, yard.context.clock())


def test_device_that_leaves_does_not_stop_the_others(yard: Yard) -> None:
    devices_ = begun(yard, 3)
    asked = ask(yard, devices_, 16)
    while len(devices_.answered[devices_.ids[2]]) < 2:
        devices_.round()
    gone = devices_.ids.pop()
    held = yard.held(gone)
    leave(yard, gone)
    devices_.rounds()
    open_ = [each for each in asked if yard.look_at(each).state != RequestState.DONE]
    assert sorted(open_) == sorted(request.id for request in held)


def test_job_does_not_wait_for_a_device_that_is_joining(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    ask(yard, devices_, 8)
    dispatch(yard.context, yard.streams)
    dispatch(yard.context, yard.streams)
    assert [each.purpose for each in yard.held(devices_.ids[1])] == [
        pools.join_purpose(devices_.ids[1])
    ]
    yard.bench.take_messages()
    for _ in range(8):
        devices_.answer(devices_.ids[0])
        dispatch(yard.context, yard.streams)
    assert yard.bench.take_messages()[-1] == ("advance", yard.job_id)


def test_job_does_not_say_that_it_waits_for_a_device_that_was_asked_to_join(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    ask(yard, devices_, 8)
    dispatch(yard.context, yard.streams)
    leave(yard, devices_.ids[1])
    dispatch(yard.context, yard.streams)
    assert pools.join_purpose(devices_.ids[1]) in yard.purposes()
    with yard.context.read() as session:
        job = jobs.find(session, yard.job_id)
    assert job is not None
    assert job.waiting_for is None


def test_log_tells_of_each_device_what_became_of_it(yard: Yard) -> None:
    devices_ = begun(yard, 2)
    ask(yard, devices_, 8)
    devices_.rounds()
    with yard.context.read() as session:
        (told,) = pools.of_device(session, devices_.ids[1])
    assert (told["job"], told["kind"], told["reason"]) == (yard.job_id, pools.JOINED, None)
