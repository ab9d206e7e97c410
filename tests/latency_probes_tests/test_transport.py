"""The transport's contract, on the fake and on a real server; and what Redis adds to it."""

from collections.abc import Callable
from typing import Protocol

import pytest
import redis

from latency_probes import acl, keys
from latency_probes.transport import RedisTransport, Transport, TransportError
from tests.latency_probes_tests.conftest import Account
from tests.latency_probes_tests.fake_transport import FakeTransport
from tests.latency_probes_tests.valkey import ValkeyProcess


class ServerSide(Protocol):
    def send(self, request: str) -> str: ...

    def take_away(self, entry_id: str) -> None: ...

    def reports(self) -> list[str]: ...


class TransportContract:
    """What every transport must do; subclasses bring both ends."""

    @pytest.fixture
    def server(self) -> ServerSide:
        raise NotImplementedError

    @pytest.fixture
    def transport(self) -> Transport:
        raise NotImplementedError

    def test_requests_arrive_once_and_in_order(
        self, server: ServerSide, transport: Transport
    ) -> None:
        entries = [server.send("a"), server.send("b")]
        received = [transport.receive(0.01), transport.receive(0.01)]
        assert [d.text for d in received if d] == ["a", "b"]
        assert [d.entry_id for d in received if d] == entries
        assert transport.receive(0.01) is None

    def test_what_is_not_acknowledged_is_found_again(
        self, server: ServerSide, transport: Transport
    ) -> None:
        for text in "abc":
            server.send(text)
            transport.receive(0.01)
        first, *rest = transport.reclaim()
        transport.acknowledge(first.entry_id)
        assert [d.text for d in (first, *rest)] == ["a", "b", "c"]
        assert transport.reclaim() == rest

    def test_nothing_is_reclaimed_before_anything_is_sent(self, transport: Transport) -> None:
        assert transport.reclaim() == []

    def test_a_request_taken_away_is_neither_renewed_nor_reclaimed(
        self, server: ServerSide, transport: Transport
    ) -> None:
        entry = server.send("a")
        transport.receive(0.01)
        assert transport.renew(entry)
        server.take_away(entry)
        assert not transport.renew(entry)
        assert transport.reclaim() == []

    def test_acknowledging_twice_is_harmless(
        self, server: ServerSide, transport: Transport
    ) -> None:
        entry = server.send("a")
        transport.receive(0.01)
        transport.acknowledge(entry)
        transport.acknowledge(entry)

    def test_reports_reach_the_server_in_order(
        self, server: ServerSide, transport: Transport
    ) -> None:
        transport.publish("one")
        transport.publish("two")
        assert server.reports() == ["one", "two"]


class TestFakeTransport(TransportContract):
    @pytest.fixture
    def transport(self) -> FakeTransport:
        return FakeTransport()

    @pytest.fixture
    def server(self, transport: FakeTransport) -> ServerSide:
        return transport


class TestRedisTransport(TransportContract):
    @pytest.fixture
    def server(self, account: Account) -> ServerSide:
        return account

    @pytest.fixture
    def transport(self, account: Account) -> RedisTransport:
        return account.transport()


@pytest.mark.parametrize(
    "command",
    [
        lambda r, own, other: r.xadd(keys.requests_stream(own), {"m": "x"}),
        lambda r, own, other: r.xadd(keys.results_stream(other), {"m": "x"}),
        lambda r, own, other: r.xrange(keys.results_stream(own)),
        lambda r, own, other: r.xtrim(keys.results_stream(own), maxlen=0),
        lambda r, own, other: r.xreadgroup("agent", "agent", {keys.requests_stream(other): ">"}),
        lambda r, own, other: r.xgroup_destroy(keys.requests_stream(own), "agent"),
        lambda r, own, other: r.delete(keys.results_stream(own)),
        lambda r, own, other: r.keys("*"),
        lambda r, own, other: r.acl_whoami(),
        lambda r, own, other: r.config_get("*"),
        lambda r, own, other: r.eval("return 1", 0),
        lambda r, own, other: r.publish("channel", "x"),
    ],
)
def test_a_device_may_do_nothing_beyond_its_two_streams(
    account: Account, command: Callable[[redis.Redis, str, str], object]
) -> None:
    account.send("a")
    user = keys.device_user(account.device_id)
    with (
        redis.Redis(port=account.valkey.port, username=user, password=account.secret) as device,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        command(device, account.device_id, "dev_other")


def test_issuing_the_user_again_does_not_disturb_the_device(account: Account) -> None:
    transport = account.transport()
    transport.publish("before")
    account.allow()
    transport.publish("after")
    assert account.reports() == ["before", "after"]


def test_a_revoked_device_is_cut_off(account: Account) -> None:
    transport = account.transport()
    transport.publish("before")
    with account.valkey.admin() as admin:
        admin.execute_command(*acl.delete_user(account.device_id))
    with pytest.raises(TransportError):
        transport.publish("after")


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64, "0" * 64 + " ~*"])
def test_the_secret_of_a_user_is_given_as_a_digest_only(digest: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hexadecimal digits"):
        acl.set_user("dev_1", digest)


def test_a_server_that_lost_its_users_is_a_passing_trouble(own_valkey: ValkeyProcess) -> None:
    account = Account(own_valkey, "dev_1", "s" * 32)
    account.allow()
    transport = account.transport()
    entry = account.send("a")
    transport.receive(1.0)
    own_valkey.kill()
    with pytest.raises(TransportError):
        transport.publish("while away")
    own_valkey.start()
    with pytest.raises(TransportError):
        transport.publish("before the user is back")
    account.allow()
    transport.publish("after")
    assert account.reports() == ["after"]
    assert [d.entry_id for d in transport.reclaim()] == [entry]


@pytest.mark.parametrize("device_id", ["", "*", "a b", "a:requests) (~*", "a" * 65])
def test_an_id_that_could_be_a_pattern_gets_no_user(device_id: str) -> None:
    with pytest.raises(ValueError, match="device_id must be"):
        acl.set_user(device_id, "0" * 64)


def test_a_group_that_vanished_is_made_again(account: Account) -> None:
    transport = account.transport()
    assert transport.reclaim() == []
    with account.valkey.admin() as admin:
        admin.delete(keys.requests_stream(account.device_id))
    account.send("a")
    delivery = transport.receive(1.0)
    assert delivery is not None
    assert delivery.text == "a"


def test_an_entry_without_our_field_arrives_as_nothing(account: Account) -> None:
    with account.valkey.admin() as admin:
        admin.xadd(keys.requests_stream(account.device_id), {"other": "x"})
    delivery = account.transport().receive(1.0)
    assert delivery is not None
    assert delivery.text == ""


def test_more_pending_requests_than_one_claim_returns_are_all_found(account: Account) -> None:
    transport = account.transport()
    for number in range(40):
        account.send(str(number))
        transport.receive(1.0)
    assert [d.text for d in transport.reclaim()] == [str(n) for n in range(40)]
