"""The real parts of a small installation, each a process that can be killed: broker, API,
collector, agents. Every part reaches the broker through a link of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx

from api.stack.home import Home
from api.stack.launcher import command_line
from api.stack.valkey import EmbeddedValkey, free_port, wait_for
from benchmarks.faults.link import Link
from jobs.columns import utc_now
from jobs.repository import devices
from latency_probes.agent.settings import PREFIX
from workers.context import Context

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 60.0


class Part:
    """A process that is started with the same command again and again.

    It ends with the thread that started it, also where that is killed.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name, self._command, self._log = name, tuple(command), log
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._environment = {**os.environ, **environment, "PYTHONPATH": path}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            LookupError: it does not run.
        """
        if self._process is None:
            raise LookupError(f"{self.name} must run, but does not")
        return self._process.pid

    def start(self) -> None:
        command = command_line(self._command, cores=(), parent=os.getpid())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, cwd=_ROOT
            )

    def send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send the signal and wait for the end; harmless when it has ended."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


class Installation:
    """Broker, API and collector on one home directory, and the agents that are added; ended as a
    whole.

    Args:
        context: the server's database and artifact store, in `home`.
    """

    def __init__(self, context: Context, home: Path) -> None:
        self._context, self._home = context, home
        self._stack = ExitStack()
        self._valkey = EmbeddedValkey(Home(home))
        self.address = self._valkey.prepare()
        self.links: dict[str, Link] = {}
        self.agents: dict[str, Part] = {}
        self.api_url = f"http://127.0.0.1:{free_port()}"
        self.broker = self._part("broker", self._valkey.command(), {})
        environment = self._server(self._link("collector"))
        self.api = self._part("api", self._api_command(), environment)
        collector = (sys.executable, "-m", "workers.collector")
        self.collector = self._part("collector", collector, environment)

    def __enter__(self) -> Installation:
        try:
            self.start_broker()
            self.api.start()
            self._wait_for_api()
            self.collector.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_broker(self) -> None:
        """Start the broker and wait until it has read its append-only file."""
        self.broker.start()
        wait_for(self.address.url)

    def add_agent(self, name: str, **settings: str) -> Part:
        """An agent with a state directory and a link of its own, not started yet.

        Args:
            settings: more of its settings, as RUNTIMES="replay".
        """
        with self._context.unit() as unit:
            token = devices.create_token(unit.session, utc_now() + timedelta(hours=1))
        told = {
            "SERVER": self.api_url,
            "NAME": name,
            "TOKEN": token,
            "STATE_DIR": str(self._home / name),
            "REDIS_URL": f"redis://127.0.0.1:{self._link(name).port}/0",
        } | settings
        environment = {PREFIX + key: value for key, value in told.items()}
        command = (sys.executable, "-m", "latency_probes.agent")
        self.agents[name] = self._part(name, command, environment)
        return self.agents[name]

    def close(self) -> None:
        """End every process, then the links."""
        for part in (*self.agents.values(), self.collector, self.api, self.broker):
            part.end()
        self._stack.close()

    def spooled(self) -> int:
        """Results that lie on the agents' disks."""
        return len(list(self._home.glob("agent-*/spool/*.json")))

    def _link(self, name: str) -> Link:
        self.links[name] = self._stack.enter_context(Link(self.address.port))
        return self.links[name]

    def _part(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Part:
        return Part(name, command, environment, self._home / "logs" / f"{name}.log")

    def _api_command(self) -> tuple[str, ...]:
        serve = ("-m", "uvicorn", "api.app:create_app", "--factory", "--no-access-log")
        return (sys.executable, *serve, "--port", self.api_url.rpartition(":")[2])

    def _server(self, link: Link) -> dict[str, str]:
        broker = self.address.url.replace(f":{self.address.port}/", f":{link.port}/")
        settings = self._context.settings
        return {
            "SECATEUR_HOME": str(settings.home),
            "DATABASE_URL": settings.database_url,
            "ARTIFACT_URL": settings.artifact_url,
            "REDIS_URL": broker,
            "SECATEUR_REQUEST_LEASE_S": str(settings.request_lease_s),
        }

    def _wait_for_api(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{self.api_url}/healthz", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise TimeoutError(f"the API must answer within {_START_S:.0f} s")
