"""Data that Valkey refuses: a real server on damaged files, under a real supervisor."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.stack import damage
from api.stack.children import ChildSpec
from api.stack.home import Home
from api.stack.supervisor import Supervisor
from api.stack.valkey import Address, EmbeddedValkey, connect, wait_for

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AOF = "appendonlydir"
REFUSED = """\
1:M * oO0OoO0OoO0Oo Valkey is starting oO0OoO0OoO0Oo
1:M * Server initialized
1:M # Bad file format reading the append only file
"""


class LongTime(datetime):
    """A time of which the text fits into no file name."""

    def __format__(self, form: str) -> str:
        return "0" * 300


@dataclass
class Broker:
    """Valkey in a home, kept running."""

    home: Home
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = EmbeddedValkey(self.home)
        self.supervisor = Supervisor(self.told.append)

    @property
    def data(self) -> Path:
        return self.home.root / "valkey" / AOF

    def start(self) -> Address:
        address = self.server.prepare()
        command, log_path = self.server.command(), self.home.log_path("valkey")

        def fresh(status: int | None) -> ChildSpec:
            self.told += filter(None, [self.server.set_damaged_data_aside(status, NOW)])
            return ChildSpec("valkey", command, log_path, renew=fresh)

        self.supervisor.start(ChildSpec("valkey", command, log_path, renew=fresh))
        wait_for(address.url, meanwhile=self.supervisor.tick)
        return address


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(Home(tmp_path))
    yield broker
    broker.supervisor.stop()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a server that was stopped: a base, what was written after it, a manifest."""
    broker = Broker(Home(tmp_path_factory.mktemp("filled")))
    with connect(broker.start().url) as client:
        client.set("before", "v" * 100)
        client.bgrewriteaof()
        while not list(broker.data.glob("*.2.base.rdb")):
            broker.supervisor.tick()
        client.set("after", "v" * 100)
        client.set("last", "v" * 100)
    broker.supervisor.stop()
    return broker.data


def only(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern))


def spoil_tail(data: Path) -> None:
    with only(data, "*.incr.aof").open("ab") as file:
        file.write(b"garbage")


def spoil_start(data: Path) -> None:
    path = only(data, "*.incr.aof")
    path.write_bytes(b"\0" * 20 + path.read_bytes()[20:])


def write_an_unknown_command(data: Path) -> None:
    with only(data, "*.incr.aof").open("ab") as file:
        file.write(b"*1\r\n$4\r\nNOPE\r\n")


def cut_base(data: Path) -> None:
    path = only(data, "*.base.rdb")
    path.write_bytes(path.read_bytes()[:-20])


def make_base_newer(data: Path) -> None:
    path = only(data, "*.base.rdb")
    path.write_bytes(path.read_bytes().replace(b"VALKEY080", b"VALKEY999"))


def spoil_manifest(data: Path) -> None:
    (data / "appendonly.aof.manifest").write_bytes(b"\xff\0 no manifest")


def empty_manifest(data: Path) -> None:
    (data / "appendonly.aof.manifest").write_bytes(b"")


def lose_a_file(data: Path) -> None:
    only(data, "*.base.rdb").unlink()


def put_a_folder_in_a_files_place(data: Path) -> None:
    path = only(data, "*.incr.aof")
    path.unlink()
    path.mkdir()


def put_a_file_in_the_folders_place(data: Path) -> None:
    shutil.rmtree(data)
    data.write_text("no folder")


REFUSALS = (
    spoil_tail,
    spoil_start,
    write_an_unknown_command,
    cut_base,
    make_base_newer,
    spoil_manifest,
    empty_manifest,
    lose_a_file,
    put_a_folder_in_a_files_place,
    put_a_file_in_the_folders_place,
)


@pytest.mark.parametrize("spoil", REFUSALS)
def test_data_that_valkey_refuses_are_set_aside_and_kept(
    broker: Broker, filled: Path, spoil: Callable[[Path], None]
) -> None:
    (broker.home.root / "valkey").mkdir(exist_ok=True)
    shutil.copytree(filled, broker.data)
    spoil(broker.data)
    with connect(broker.start().url) as client:
        assert client.dbsize() == 0
        client.set("k", "v")
    kept = broker.data.with_name(f"{AOF}.damaged-20260102T030405")
    assert kept.exists()
    assert [line for line in broker.told if str(kept) in line] == [broker.told[-1]]
    assert "valkey cannot read what it kept (" in broker.told[-1]


def test_a_tail_that_is_missing_is_repaired_and_the_rest_kept(
    broker: Broker, filled: Path
) -> None:
    shutil.copytree(filled, broker.data)
    path = only(broker.data, "*.incr.aof")
    path.write_bytes(path.read_bytes()[:-5])
    with connect(broker.start().url) as client:
        assert set(client.keys()) == {b"before", b"after"}
    assert broker.told == []


def test_data_damaged_while_valkey_runs_are_set_aside_at_its_next_start(broker: Broker) -> None:
    address = broker.start()
    spoil_tail(broker.data)
    pid = broker.supervisor.running()["valkey"]
    os.kill(pid, signal.SIGKILL)
    while broker.supervisor.running().get("valkey", pid) == pid:
        broker.supervisor.tick()
    wait_for(address.url, meanwhile=broker.supervisor.tick)
    assert len(list(broker.data.parent.glob("*.damaged-*"))) == 1


def test_data_are_set_aside_again_once_valkey_has_run_between(broker: Broker) -> None:
    broker.home.log_path("valkey").write_text(REFUSED)
    broker.data.mkdir()
    assert broker.server.set_damaged_data_aside(1, NOW) is not None
    assert broker.server.set_damaged_data_aside(-9, NOW) is None
    broker.data.mkdir()
    assert broker.server.set_damaged_data_aside(1, NOW) is not None


@pytest.mark.parametrize(
    ("log", "status"),
    [
        (REFUSED, None),
        (REFUSED, -9),
        (REFUSED, 0),
        ("", 1),
        (REFUSED + "Valkey is starting\n# Could not create server TCP listening socket\n", 1),
        (REFUSED + "1:M * Ready to accept connections tcp\n", 1),
        (REFUSED + "1:M # Can't open: No space left on device\n", 1),
    ],
)
def test_data_stay_where_another_reason_ended_valkey(
    broker: Broker, log: str, status: int | None
) -> None:
    broker.data.mkdir()
    broker.home.log_path("valkey").write_text(log)
    assert broker.server.set_damaged_data_aside(status, NOW) is None
    assert broker.data.exists()


@pytest.mark.parametrize("status", [1, -signal.SIGSEGV, -signal.SIGABRT])
def test_data_that_valkey_stumbles_over_are_set_aside_too(broker: Broker, status: int) -> None:
    broker.data.mkdir()
    broker.home.log_path("valkey").write_text(REFUSED)
    assert broker.server.set_damaged_data_aside(status, NOW) is not None
    assert not broker.data.exists()


def test_a_start_without_data_that_fails_too_sets_nothing_aside(broker: Broker) -> None:
    broker.home.log_path("valkey").write_text(REFUSED)
    broker.data.mkdir()
    assert "Bad file format" in str(broker.server.set_damaged_data_aside(1, NOW))
    broker.data.mkdir()
    assert broker.server.set_damaged_data_aside(1, NOW) is None


def test_data_that_could_not_be_set_aside_are_tried_again(broker: Broker) -> None:
    """The name that they would get is too long for the first time."""
    broker.home.log_path("valkey").write_text(REFUSED)
    broker.data.mkdir()
    with pytest.raises(OSError, match="name too long"):
        broker.server.set_damaged_data_aside(1, LongTime(2026, 1, 2))
    assert broker.server.set_damaged_data_aside(1, NOW) is not None


def test_what_was_set_aside_is_never_overwritten(tmp_path: Path) -> None:
    for _ in range(3):
        (tmp_path / AOF).mkdir()
        damage.set_aside(tmp_path, NOW)
    assert len(list(tmp_path.iterdir())) == 3
