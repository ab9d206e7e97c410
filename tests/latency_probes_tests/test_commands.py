"""A device's account against every command that the server has: what it may do is listed here,
and everything else is refused by the server itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from latency_probes import keys
from tests.latency_probes_tests.conftest import Account
from tests.latency_probes_tests.valkey import PASSWORD

_OTHER = "dev_other"
# By the account, and by the server's configuration, which shuts these out for everybody.
_REFUSALS = ("no permissions", "command not allowed. if the enable-")
# The server runs these for everybody; they touch no data, and AUTH needs another's password.
_ANYBODY = {"auth", "hello", "quit", "reset"}
_CONNECTION = {"ping", "client|setinfo", "client|setname", "client|id"}
_OWN_REQUESTS = {"xreadgroup", "xautoclaim", "xclaim", "xack", "xgroup|create"}
_OWN_RESULTS = {"xadd"}
_ARGUMENTS = {
    "xreadgroup": ("GROUP", "g", "c", "STREAMS", "KEY", ">"),
    "xautoclaim": ("KEY", "g", "c", "0", "0"),
    "xclaim": ("KEY", "g", "c", "0", "0-1"),
    "xack": ("KEY", "g", "0-1"),
    "xgroup|create": ("KEY", "another", "0", "MKSTREAM"),
    "xadd": ("KEY", "*", "m", "x"),
    "ping": (),
    "hello": (),
    "auth": ("user", "password"),
    "client|setinfo": ("LIB-NAME", "x"),
    "client|setname": ("x",),
}


@pytest.fixture
def commands(account: Account) -> dict[str, tuple[str, ...]]:
    """Every command and subcommand -> arguments that the server accepts as a call; `KEY` stands
    for a key."""
    with _connected(account, "default", PASSWORD) as call:
        rows = call("COMMAND", "INFO", *call("COMMAND", "LIST"))
    arities = {row[0]: row[1] for row in rows if not row[9]}  # row[9] holds subcommands
    assert len(arities) > 300
    return {name: _ARGUMENTS.get(name) or _filler(name, arity) for name, arity in arities.items()}


def _filler(name: str, arity: int) -> tuple[str, ...]:
    return ("KEY",) * max(abs(arity) - 1 - name.count("|"), 0)


@contextmanager
def _connected(account: Account, user: str, password: str) -> Iterator[Callable[..., Any]]:
    """A function that gives the server's answer, untouched, on a connection of its own."""
    port = account.valkey.port
    with redis.Redis(
        port=port, username=user, password=password, protocol=2, decode_responses=True
    ) as client:
        connection = client.connection_pool.get_connection()

        def call(*words: str) -> Any:
            connection.send_command(*words)
            return connection.read_response()

        yield call
        connection.disconnect()


def _allowed(account: Account, commands: dict[str, tuple[str, ...]], key: str) -> set[str]:
    """Those that the server does not refuse to the device for this key."""
    user = keys.device_user(account.device_id)
    allowed = set(_ANYBODY)
    with _connected(account, user, account.secret) as call:
        for name, arguments in commands.items():
            given = [key if word == "KEY" else word for word in arguments]
            if name not in _ANYBODY and not _is_refused(call, *name.split("|"), *given):
                allowed.add(name)
    return allowed


def _is_refused(call: Callable[..., Any], *words: str) -> bool:
    try:
        call(*words)
    except redis.RedisError as error:
        return any(refusal in str(error).lower() for refusal in _REFUSALS)
    return False


def test_of_its_requests_a_device_can_only_read_claim_and_acknowledge(
    account: Account, commands: dict[str, tuple[str, ...]]
) -> None:
    account.send("x")
    found = _allowed(account, commands, keys.requests_stream(account.device_id))
    assert found == _ANYBODY | _CONNECTION | _OWN_REQUESTS


def test_to_its_results_a_device_can_only_add(
    account: Account, commands: dict[str, tuple[str, ...]]
) -> None:
    found = _allowed(account, commands, keys.results_stream(account.device_id))
    assert found == _ANYBODY | _CONNECTION | _OWN_RESULTS


@pytest.mark.parametrize(
    "key", [keys.requests_stream(_OTHER), keys.results_stream(_OTHER), "secateur"]
)
def test_to_what_belongs_to_others_a_device_can_do_nothing(
    account: Account, commands: dict[str, tuple[str, ...]], key: str
) -> None:
    assert _allowed(account, commands, key) == _ANYBODY | _CONNECTION


def test_what_a_device_does_to_its_own_results_reaches_nobody_else(account: Account) -> None:
    with account.valkey.admin() as admin:
        admin.xadd(keys.results_stream(_OTHER), {keys.FIELD: "theirs"})
        user = keys.device_user(account.device_id)
        with redis.Redis(
            port=account.valkey.port, username=user, password=account.secret
        ) as device:
            own = keys.results_stream(account.device_id)
            device.xadd(own, {keys.FIELD: "mine"}, maxlen=1, approximate=False)
            device.xadd(own, {keys.FIELD: "last"}, id="18446744073709551615-18446744073709551615")
            with pytest.raises(redis.exceptions.ResponseError, match="ID"):
                device.xadd(own, {keys.FIELD: "no room"})
        assert [f[keys.FIELD] for _, f in admin.xrange(keys.results_stream(_OTHER))] == ["theirs"]
        admin.delete(keys.results_stream(_OTHER))
