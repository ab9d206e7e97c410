"""One collector leads; it takes in reports, hands out requests, and waits out what is away."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

from sqlalchemy import update

from jobs.repository import devices, leases
from jobs.states import DeviceState, RequestState
from jobs.tables import Request
from latency_probes.messages import MeasureRequest
from tests.latency_probes_tests.valkey import ValkeyProcess
from tests.workers_tests.bench import Bench
from tests.workers_tests.collector_tests.yard import Yard, heartbeat, text_of
from workers.collector.collector import LEADER_LEASE_S, LEASE, SWEEP_S, Collector
from workers.collector.streams import Streams


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def collector(yard: Yard, owner: str = "first", clock: Clock | None = None) -> Collector:
    return Collector(yard.context, yard.streams, owner, monotonic=clock or Clock())


def after(turns: int) -> Callable[[], bool]:
    """Says stop after so many questions."""
    answers = iter([False] * turns)
    return lambda: next(answers, True)


def test_turn_hands_out_a_request_and_takes_in_its_result(yard: Yard) -> None:
    device_id, request_id = yard.device(), yard.request("screening:a")
    leader = collector(yard)
    assert leader.turn()
    assert len(yard.received(device_id)) == 1
    yard.say(device_id, text_of(yard.look_at(request_id)))
    assert leader.turn()
    assert yard.look_at(request_id).state == RequestState.DONE
    assert yard.unread(device_id) == 0
    assert ("advance", yard.job_id) in yard.bench.take_messages()


def test_malformed_report_does_not_hold_up_the_next(yard: Yard) -> None:
    device_id = yard.device()
    yard.say(device_id, "nonsense")
    yard.say(device_id, heartbeat("busy"))
    collector(yard).turn()
    assert yard.look_at_device(device_id).state == DeviceState.BUSY
    assert yard.unread(device_id) == 0


def test_second_collector_leads_only_once_the_first_is_silent(yard: Yard) -> None:
    first, second = collector(yard), collector(yard, "second")
    assert first.turn()
    assert not second.turn()
    yard.later(LEADER_LEASE_S + 1)
    assert second.turn()


def test_leader_renews_its_lease_and_notices_when_it_has_lost_it(yard: Yard) -> None:
    clock = Clock()
    first, second = collector(yard, clock=clock), collector(yard, "second")
    assert first.turn()
    clock.now += LEADER_LEASE_S / 2 + 0.1
    yard.later(LEADER_LEASE_S / 2 + 0.1)
    assert first.turn()
    yard.later(LEADER_LEASE_S - 1)
    assert not second.turn()
    yard.later(2)
    assert second.turn()
    clock.now += LEADER_LEASE_S
    assert not first.turn()


def test_sweep_comes_at_its_interval(yard: Yard) -> None:
    clock, device_id = Clock(), yard.device()
    leader = collector(yard, clock=clock)
    leader.turn()
    yard.later(3600)
    leader.turn()
    assert yard.look_at_device(device_id).state == DeviceState.ONLINE
    clock.now += SWEEP_S
    leader.turn()
    assert yard.look_at_device(device_id).state == DeviceState.OFFLINE


def test_turn_without_devices_is_short_and_harmless(yard: Yard) -> None:
    assert collector(yard).turn()


def test_revoked_device_loses_its_account(yard: Yard, valkey: ValkeyProcess) -> None:
    device_id, leader = yard.device(), collector(yard)
    leader.turn()
    with valkey.admin() as admin:
        assert f"device-{device_id}" in admin.acl_users()
        with yard.bench.write() as session:
            devices.revoke(session, device_id)
        leader.turn()
        assert f"device-{device_id}" not in admin.acl_users()


def test_collector_that_ends_waits_for_no_busy_database(yard: Yard) -> None:
    leader = collector(yard)
    assert leader.turn()
    with closing(sqlite3.connect(yard.bench.settings.home / "secateur.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        started_s = time.monotonic()
        leader.run(after(0))
        assert time.monotonic() - started_s < 5.0
    with yard.context.read() as session:
        assert leases.holder(session, LEASE, yard.context.clock()) == "first"


def test_collector_that_ends_gives_its_lease_back(yard: Yard) -> None:
    collector(yard).run(after(1))
    with yard.context.read() as session:
        assert leases.holder(session, LEASE, yard.context.clock()) is None


def test_collector_that_does_not_lead_waits(yard: Yard) -> None:
    collector(yard).turn()
    collector(yard, "second").run(after(1))
    with yard.context.read() as session:
        assert leases.holder(session, LEASE, yard.context.clock()) == "first"


def test_server_that_is_away_is_waited_out(bench: Bench, own_valkey: ValkeyProcess) -> None:
    with Yard(bench, own_valkey) as yard:
        request_id, leader = yard.request("screening:a"), collector(yard)
        yard.device()
        own_valkey.kill()
        leader.run(after(1))
        assert yard.look_at(request_id).state == RequestState.PENDING
        own_valkey.start()
        leader.run(after(1))
        assert yard.look_at(request_id).state == RequestState.DISPATCHED


def test_answer_to_a_request_that_cannot_be_read_does_not_stop_the_collector(yard: Yard) -> None:
    device_id, request_id = yard.device(), yard.request("screening:a")
    leader = collector(yard)
    leader.turn()
    answer = text_of(yard.look_at(request_id))
    with yard.bench.write() as session:
        session.execute(update(Request).values(settings={"kind": 3}, target=[]))
    yard.say(device_id, answer)
    yard.say(device_id, heartbeat("busy"))
    assert leader.turn()
    assert yard.look_at_device(device_id).state == DeviceState.BUSY
    assert yard.unread(device_id) == 0


def test_part_that_fails_does_not_keep_the_others_from_their_work(yard: Yard) -> None:
    class Broken(Streams):
        def send(self, device_id: str, request: MeasureRequest) -> str:
            raise RuntimeError("a mistake of ours")

    yard.device()
    yard.request("screening:a")
    silent = yard.device("silent")
    yard.later(yard.context.settings.silence_s - 1)
    yard.streams = Broken(yard.redis)
    leader = collector(yard)
    yard.later(2)
    assert leader.turn()
    assert yard.look_at_device(silent).state == DeviceState.OFFLINE
