"""`secateur up`: the composition root that runs broker, API, collector, workers and local probe.

Everything that is not embedded comes from the environment (REDIS_URL, DATABASE_URL, ARTIFACT_URL).
The processes find each other through the home directory; no secret is on a command line.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from api.stack import damage, leftovers, valkey
from api.stack.aside import aside
from api.stack.children import ChildSpec
from api.stack.config import StackConfig, check_binding
from api.stack.cores import (
    CorePlan,
    available_cores,
    default_workers,
    leave_the_probe_alone,
    plan_cores,
    threads_per_worker,
)
from api.stack.environment import secrets_for
from api.stack.errors import BrokerUnavailable, NotReady, PortInUse
from api.stack.home import Home, explained, private_files
from api.stack.probe import probe_command, probe_environment
from api.stack.supervisor import Supervisor, heedless

STOP_ORDER = ("probe", "worker", "collector", "api", "valkey")
READY_TIMEOUT_S = 60.0
BROKER_DEATHS = 4
TELL_AFTER_S = 1.0


class StopRequest:
    """Becomes true with the first SIGINT, SIGTERM or SIGHUP.

    A plain flag: taking a lock inside a signal handler could deadlock.
    """

    def __init__(self) -> None:
        self._stopped = False

    def __call__(self) -> bool:
        return self._stopped

    def listen(self) -> None:
        """Installs the handlers."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True


class Stack:
    """The processes of one home, up between `start` and `stop`.

    Args:
        config: What to run.
        home: Its home; the caller holds the lock.
        report: Receives one line per event worth telling.
        stopping: Says when to give up waiting.
    """

    def __init__(
        self,
        config: StackConfig,
        home: Home,
        report: Callable[[str], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._config = config
        self._home = home
        self._report = report
        self._stopping = stopping
        self._broker: str | None = None
        self._note: dict[str, Any] = {"pid": os.getpid()}
        self._supervisor = Supervisor(report, self._remember)
        probe = bool(config.probe_runtimes)
        self._cores: CorePlan = plan_cores(available_cores(), probe=probe)
        self._workers = config.workers or default_workers(self._cores)
        self._environment = {
            "SECATEUR_HOME": str(home.root),
            "SECATEUR_ALLOW": allowed(config.allow, os.environ.get("SECATEUR_ALLOW", "")),
            "SECATEUR_DATA_ROOTS": roots(
                config.data_roots, os.environ.get("SECATEUR_DATA_ROOTS", "")
            ),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self) -> str:
        """Brings everything up and returns the address of the API once it is ready.

        Raises:
            StackError: If something cannot come up; the message says what to change.
        """
        os.environ["SECATEUR_HOME"] = str(self._home.root)
        leave_the_probe_alone(self._cores)
        leftovers.end(leftovers.left_over(self._home.read_note()))
        port = self._choose_port()
        self._start_broker()
        self._migrate()
        url = f"http://{reachable(self._config.host)}:{port}"
        self._note["url"] = url
        self._supervisor.start(self._api(port))
        self._wait_ready(url)
        self._start_workers()
        if self._config.probe_runtimes:
            self._start_probe(url)
        self._note["ready"] = True
        self._remember(self._supervisor.running())
        return url

    def run(self) -> None:
        """Keeps everything running until asked to stop."""
        self._supervisor.run(self._stopping)

    def stop(self) -> None:
        """Stops everything in order and leaves no process behind."""
        self._supervisor.stop(STOP_ORDER)
        with suppress(OSError):
            self._home.forget_note()

    def _choose_port(self) -> int:
        host = self._config.host
        if self._config.port == 0:
            return valkey.free_port(host)
        if not valkey.is_free(self._config.port, host):
            raise PortInUse(
                f"port must be free, but something listens on {host}:{self._config.port}. "
                "Choose another with --port, or --port 0 for any."
            )
        return self._config.port

    def _start_broker(self) -> None:
        if url := os.environ.get("REDIS_URL"):
            if not valkey.answers(url):
                raise BrokerUnavailable(
                    "REDIS_URL must name a running Redis or Valkey server, but it does not answer"
                )
            return
        server = valkey.EmbeddedValkey(self._home)
        address = server.prepare()
        spec = ChildSpec(
            "valkey",
            server.command(),
            self._home.log_path("valkey"),
            cores=self._cores.servers,
            outlives_parent=True,
        )

        def fresh(status: int | None) -> ChildSpec:
            if done := server.set_damaged_data_aside(status, datetime.now(UTC)):
                self._report(done)
            return replace(spec, renew=fresh)

        self._supervisor.start(replace(spec, renew=fresh))
        valkey.wait_for(address.url, meanwhile=self._look_after_broker)
        self._broker = address.public_url

    def _look_after_broker(self) -> None:
        self._tick()
        if self._supervisor.deaths("valkey") >= BROKER_DEATHS:
            log_path = self._home.log_path("valkey")
            words = damage.last_words(log_path).strip().rpartition("\n")[2]
            raise BrokerUnavailable(
                f"Valkey must start, but it ends: {words}. Its log is {log_path}"
            )

    def _migrate(self) -> None:
        from api.stack.migrate import migrate

        done, started_s, told = aside(migrate), time.monotonic(), False
        while not done.done():
            self._tick()
            if not told and time.monotonic() - started_s > TELL_AFTER_S:
                self._report("Secateur waits for the database.")
                told = True
            time.sleep(0.02)
        done.result()

    def _api(self, port: int) -> ChildSpec:
        serve = ("-m", "uvicorn", "api.app:create_app", "--factory", "--no-access-log")
        address = ("--host", self._config.host, "--port", str(port))
        patience = ("--timeout-graceful-shutdown", "1")
        return self._python("api", *serve, *address, *patience)

    def _start_workers(self) -> None:
        self._supervisor.start(self._python("collector", "-m", "workers.collector"))
        cores = {"SECATEUR_SPARE_CORES": ",".join(map(str, self._cores.all))}
        for number in range(self._workers):
            spec = self._python(f"worker-{number}", "-m", "workers.worker")
            self._supervisor.start(replace(spec, environment={**spec.environment, **cores}))

    def _start_probe(self, url: str) -> None:
        cores = self._cores.probe
        command = probe_command(self._config, self._home, url, cores=cores, broker=self._broker)
        spec = replace(self._python("probe", *command), cores=cores)

        def fresh(status: int | None) -> ChildSpec:
            more = probe_environment(self._config, self._home)
            return replace(spec, environment={**spec.environment, **more}, renew=fresh)

        self._supervisor.start_when_possible(replace(spec, renew=fresh), self._stopping)

    def _python(self, name: str, *arguments: str) -> ChildSpec:
        threads = str(threads_per_worker(self._cores, self._workers))
        return ChildSpec(
            name,
            (sys.executable, *arguments),
            self._home.log_path(name),
            {
                **secrets_for(name, os.environ),
                **self._environment,
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
            },
            self._cores.servers,
        )

    def _wait_ready(self, url: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not is_ready(url):
            self._tick()
            if time.monotonic() > deadline:
                raise NotReady(
                    f"the API must be ready within {READY_TIMEOUT_S:g} s, but it is not. "
                    f"Its log is {self._home.log_path('api')}"
                )
            time.sleep(0.1)

    def _tick(self) -> None:
        self._supervisor.tick()
        if self._stopping():
            raise NotReady("stopped before the API was ready")

    def _remember(self, running: dict[str, int]) -> None:
        self._note["children"] = leftovers.fingerprints(running)
        self._home.write_note(self._note)


def up(config: StackConfig, report: Callable[[str], None]) -> None:
    """Runs the stack until SIGINT, SIGTERM or SIGHUP.

    Raises:
        StackError: If it cannot come up.
    """
    check_binding(config.host, os.environ)
    report = heedless(report)
    stopping = StopRequest()
    with private_files(), explained(config.home):
        home = Home(config.home)
        with home.lock():
            stopping.listen()
            stack = Stack(config, home, report, stopping)
            try:
                url = stack.start()
                report(f"Secateur is ready at {url} (dashboard: {url}/). Ctrl-C stops it.")
                stack.run()
            finally:
                report("Stopping.")
                stack.stop()


def is_ready(url: str) -> bool:
    """Whether the API at `url` says that it can work."""
    try:
        return httpx.get(f"{url}/readyz", timeout=3, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def allowed(names: tuple[str, ...], more: str) -> str:
    """The allow-list of functions, as the environment carries it."""
    return ",".join(dict.fromkeys([*names, *filter(None, more.split(","))]))


def roots(folders: tuple[Path, ...], more: str) -> str:
    """The data roots, as the environment carries them."""
    named = [str(each.absolute()) for each in folders]
    return os.pathsep.join(dict.fromkeys([*named, *filter(None, more.split(os.pathsep))]))


def reachable(host: str) -> str:
    """How this machine itself reaches a server that listens on `host`, as a URL writes it."""
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{own}]" if ":" in own else own
