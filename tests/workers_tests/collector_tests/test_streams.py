"""The streams on a real Valkey server: accounts, reports, and who holds an entry."""

from __future__ import annotations

import hashlib

import pytest
import redis

from latency_probes import keys
from tests.latency_probes_tests import measurements
from tests.latency_probes_tests.valkey import PASSWORD, ValkeyProcess
from tests.workers_tests.collector_tests.yard import Yard
from workers.collector.dispatching import dispatch
from workers.collector.streams import Entry, Streams

SECRET = "s" * 32
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def users(valkey: ValkeyProcess) -> set[str]:
    with valkey.admin() as admin:
        return set(admin.acl_users())


def test_every_device_gets_an_account_that_its_secret_opens(
    valkey: ValkeyProcess, yard: Yard
) -> None:
    yard.streams.ensure_users({"dev_a": DIGEST})
    with redis.Redis(port=valkey.port, username="device-dev_a", password=SECRET) as device:
        assert device.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            device.xadd(keys.results_stream("dev_b"), {"m": "x"})
    yard.streams.ensure_users({})


def test_account_of_a_revoked_device_is_removed(valkey: ValkeyProcess, yard: Yard) -> None:
    yard.streams.ensure_users({"dev_a": DIGEST, "dev_b": DIGEST})
    yard.streams.ensure_users({"dev_b": DIGEST})
    assert users(valkey) & {"device-dev_a", "device-dev_b"} == {"device-dev_b"}
    yard.streams.ensure_users({})


def test_account_of_a_device_revoked_while_no_collector_ran_is_removed(
    valkey: ValkeyProcess, yard: Yard
) -> None:
    Streams(yard.redis).ensure_users({"dev_a": DIGEST, "dev_b": DIGEST})
    Streams(yard.redis).ensure_users({"dev_b": DIGEST}, revoked={"dev_a"})
    assert users(valkey) & {"device-dev_a", "device-dev_b"} == {"device-dev_b"}
    yard.streams.ensure_users({}, revoked={"dev_b"})


def test_new_secret_replaces_the_old_one(valkey: ValkeyProcess, yard: Yard) -> None:
    yard.streams.ensure_users({"dev_a": "0" * 64})
    yard.streams.ensure_users({"dev_a": DIGEST})
    with redis.Redis(port=valkey.port, username="device-dev_a", password=SECRET) as device:
        assert device.ping()
    yard.streams.ensure_users({})


def test_accounts_are_made_again_after_the_server_restarted(own_valkey: ValkeyProcess) -> None:
    with redis.Redis(port=own_valkey.port, password=PASSWORD) as admin:
        streams = Streams(admin)
        streams.ensure_users({"dev_a": DIGEST})
        own_valkey.kill()
        own_valkey.start()
        assert "device-dev_a" not in users(own_valkey)
        streams.ensure_users({"dev_a": DIGEST})
    assert "device-dev_a" in users(own_valkey)


def test_reports_are_read_in_order_until_they_are_deleted(yard: Yard) -> None:
    for text in ("one", "two"):
        yard.say("dev_a", text)
    yard.say("dev_b", "three")
    found = yard.streams.read(["dev_a", "dev_b"], block_ms=10)
    assert [(each.device_id, each.text) for each in found] == [
        ("dev_a", "one"), ("dev_a", "two"), ("dev_b", "three")
    ]  # fmt: skip
    assert yard.streams.read(["dev_a", "dev_b"], block_ms=10) == found
    yard.streams.delete(found)
    assert yard.streams.read(["dev_a", "dev_b"], block_ms=10) == []


def test_no_devices_are_not_waited_for(yard: Yard) -> None:
    assert yard.streams.read([], block_ms=10_000) == []


@pytest.mark.parametrize("protocol", [2, 3])
def test_reports_are_read_with_both_protocols(
    valkey: ValkeyProcess, yard: Yard, protocol: int
) -> None:
    yard.say("dev_p", "hello")
    with redis.Redis(port=valkey.port, password=PASSWORD, protocol=protocol) as connection:
        (entry,) = Streams(connection).read(["dev_p"], block_ms=10)
    assert (entry.device_id, entry.text) == ("dev_p", "hello")
    yard.streams.delete([entry])


def test_entry_without_the_field_is_an_empty_text(yard: Yard) -> None:
    yard.redis.xadd(keys.results_stream("dev_x"), {"other": b"\xff"})
    (entry,) = yard.streams.read(["dev_x"], block_ms=10)
    assert entry == Entry("dev_x", entry.stream_id, "")
    yard.streams.delete([entry])


def test_bytes_that_are_no_text_are_read_all_the_same(yard: Yard) -> None:
    yard.redis.xadd(keys.results_stream("dev_x"), {keys.FIELD: b"\xff\xfe"})
    (entry,) = yard.streams.read(["dev_x"], block_ms=10)
    assert entry.text == "\ufffd\ufffd"
    yard.streams.delete([entry])


@pytest.mark.parametrize("stream_id", ["18446744073709551615-18446744073709551615", "9" * 15])
def test_id_beyond_the_clock_does_not_wedge_the_stream(yard: Yard, stream_id: str) -> None:
    yard.redis.xadd(keys.results_stream("dev_x"), {keys.FIELD: "last"}, id=stream_id)
    (entry,) = yard.streams.read(["dev_x"], block_ms=10)
    assert entry.text == "last"
    yard.streams.delete([entry])
    yard.say("dev_x", "next")
    (entry,) = yard.streams.read(["dev_x"], block_ms=10)
    assert entry.text == "next"
    yard.streams.delete([entry])


def test_entry_is_held_until_its_holder_is_silent_for_the_lease(yard: Yard) -> None:
    stream_id = yard.streams.send("dev_h", measurements.request())
    assert yard.streams.is_held("dev_h", stream_id, 30.0)
    yard.claim("dev_h")
    assert yard.streams.is_held("dev_h", stream_id, 30.0)
    assert not yard.streams.is_held("dev_h", stream_id, 0.0)


def test_entry_that_is_gone_or_was_never_sent_is_not_held(yard: Yard) -> None:
    stream_id = yard.streams.send("dev_g", measurements.request())
    yard.redis.xdel(keys.requests_stream("dev_g"), stream_id)
    assert not yard.streams.is_held("dev_g", stream_id, 30.0)
    assert not yard.streams.is_held("dev_g", None, 30.0)


def test_request_that_was_acknowledged_without_a_counted_result_is_not_held(yard: Yard) -> None:
    device_id, stream_id = yard.device(), None
    request_id = yard.request("one")
    dispatch(yard.context, yard.streams)
    stream_id = yard.look_at(request_id).stream_id
    yard.claim(device_id)
    assert yard.streams.is_held(device_id, stream_id, 30.0)
    yard.redis.xack(keys.requests_stream(device_id), keys.GROUP, stream_id)
    assert not yard.streams.is_held(device_id, stream_id, 30.0)


def test_forgotten_request_is_no_longer_in_the_stream(yard: Yard) -> None:
    device_id, request_id = yard.device(), yard.request("one")
    dispatch(yard.context, yard.streams)
    yard.streams.forget(device_id, yard.look_at(request_id).stream_id)
    assert yard.received(device_id) == []
