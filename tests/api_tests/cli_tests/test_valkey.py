import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from api.stack.errors import BrokerUnavailable
from api.stack.home import Home
from api.stack.valkey import Address, EmbeddedValkey, answers, connect, free_port, wait_for


@pytest.fixture
def server(tmp_path: Path) -> EmbeddedValkey:
    return EmbeddedValkey(Home(tmp_path))


@contextmanager
def running(server: EmbeddedValkey) -> Iterator[tuple[Address, subprocess.Popen[bytes]]]:
    address = server.prepare()
    with subprocess.Popen(server.command(), stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(address.url)
            yield address, process
        finally:
            process.kill()


def test_it_wants_the_password_and_keeps_it_to_its_owner(
    server: EmbeddedValkey, tmp_path: Path
) -> None:
    with running(server) as (address, process):
        assert answers(address.url)
        assert not answers(address.public_url)
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
        assert address.password not in command
    for path in (server.configuration_path, tmp_path / "valkey.json"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "valkey.json").read_text())["url"] == address.url


def test_a_flood_is_cut_off(server: EmbeddedValkey) -> None:
    with running(server) as (address, _), connect(address.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        with pytest.raises(redis.RedisError):
            client.set("k", b"x" * (2 * 2**20 + 1))


def test_what_was_written_survives_a_kill(server: EmbeddedValkey) -> None:
    with running(server) as (address, process), connect(address.url) as client:
        client.set("k", "v")
        process.kill()
    with running(server) as (again, _), connect(again.url) as client:
        assert again == address
        assert client.get("k") == b"v"


def test_an_orphan_is_ended_and_its_data_kept(server: EmbeddedValkey) -> None:
    with running(server) as (address, process):
        with connect(address.url) as client:
            client.set("k", "v")
        assert server.orphan() is not None
        with running(server) as (again, _), connect(again.url) as client:
            assert process.wait(10) == 0
            assert again == address
            assert client.get("k") == b"v"


def test_an_orphan_whose_password_is_lost_is_ended(server: EmbeddedValkey, tmp_path: Path) -> None:
    with running(server) as (_, process):
        (tmp_path / "valkey.json").write_text("{}")
        server.prepare()
        assert process.wait(10) == 0


def test_a_hung_orphan_is_killed(server: EmbeddedValkey) -> None:
    with running(server) as (_, process):
        process.send_signal(signal.SIGSTOP)
        server.end_orphan(None, timeout_s=0.2)
        assert server.orphan() is None
        process.wait(10)


@pytest.mark.parametrize("text", ["", "not a number", "1"])
def test_a_pid_file_that_names_another_process_is_ignored(
    server: EmbeddedValkey, text: str
) -> None:
    server.pid_path.write_text(text)
    assert server.orphan() is None


def test_a_port_that_was_taken_is_replaced(server: EmbeddedValkey) -> None:
    import socket

    first = server.prepare()
    with socket.socket() as other:
        other.bind(("127.0.0.1", first.port))
        other.listen()
        second = server.prepare()
    assert second.port != first.port
    assert second.password == first.password


def test_a_server_that_does_not_come_up_is_an_error() -> None:
    with pytest.raises(BrokerUnavailable):
        wait_for(f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.1)
