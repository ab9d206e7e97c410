"""`python -m latency_probes.agent`: enrols this machine as a device, then measures until it is
told to end.

SIGTERM drains: what is being measured is finished. SIGINT, or a second SIGTERM, ends at once; what
was being measured is claimed again at the next start. Exit codes: 0 ended as told, 1 could not
enrol, 2 wrong arguments.
"""

import fcntl
import logging
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from latency_probes.agent import credentials, server, settings
from latency_probes.agent.backoff import Backoff
from latency_probes.agent.heartbeat import Pulse
from latency_probes.agent.loop import Agent
from latency_probes.agent.models import ModelCache
from latency_probes.agent.settings import AgentSettings, SettingsError
from latency_probes.agent.spool import Spool
from latency_probes.measure import Measurer
from latency_probes.messages import Capabilities, Enrolment, Hello, MeasureError
from latency_probes.runtimes import registry
from latency_probes.runtimes.replay import FILE_VARIABLE
from latency_probes.spawn import Withdrawn, describe_device
from latency_probes.transport import RedisTransport

_log = logging.getLogger("latency_probes.agent")


class InUse(Exception):
    """The state directory belongs to another agent."""


class StartError(Exception):
    """The agent cannot start; the message says what to change."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; returns its exit code."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        told = settings.read(sys.argv[1:] if argv is None else argv, os.environ, __doc__ or "")
        lock = _locked(told.state_dir)
    except (SettingsError, OSError, InUse) as error:
        _log.error("%s", error)
        return 2
    if told.replay is not None:
        os.environ[FILE_VARIABLE] = str(told.replay)
    runtimes = registry.offered(told.runtimes)
    try:
        identity, found = _identity(told, runtimes)
    except (StartError, server.Refused, credentials.CredentialsError) as error:
        _log.error("%s", error)
        return 1
    _serve(identity, told, runtimes, found)
    os.close(lock)
    return 0


def _locked(directory: Path) -> int:
    """Make the state directory, and hold it: two agents with one identity would disturb each
    other."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise InUse(f"another agent already runs on {directory}") from error
    return handle


def _identity(
    told: AgentSettings, runtimes: Mapping[str, str]
) -> tuple[credentials.Credentials, Capabilities | None]:
    """Who this device is; and what it is, where that had to be found out to enrol."""
    path = told.state_dir / "credentials.json"
    kept = credentials.load(path)
    if kept is not None:
        return kept.model_copy(update={"server": told.server.rstrip("/")}), None
    if not told.token:
        raise StartError("--token must be given at the first start")
    found = describe_device(runtimes, told.cores)
    if isinstance(found, MeasureError) or not found.runtimes:
        why = f": {found.message}" if isinstance(found, MeasureError) else ""
        raise StartError(f"none of the runtimes {sorted(runtimes)} works on this machine{why}")
    enrolment = Enrolment(token=told.token, name=told.name, labels=told.labels, capabilities=found)
    fresh = _enrol(enrolment, told)
    credentials.save(path, fresh)
    return fresh, found


def _enrol(enrolment: Enrolment, told: AgentSettings) -> credentials.Credentials:
    backoff = Backoff(random.Random())
    deadline = time.monotonic() + told.wait_s
    while True:
        try:
            return server.enrol(told.server.rstrip("/"), enrolment, told.ca_file)
        except server.Unavailable as error:
            if time.monotonic() > deadline:
                raise StartError(f"no enrolment within {told.wait_s:.0f} s: {error}") from error
            _log.info("enrolling again soon: %s", error)
        time.sleep(backoff.next_s())


def _serve(
    identity: credentials.Credentials,
    told: AgentSettings,
    runtimes: Mapping[str, str],
    found: Capabilities | None,
) -> None:
    reply, state = identity.reply, told.state_dir
    url = told.redis_url or reply.redis_url
    transport = RedisTransport(url, reply.device_id, reply.secret, ca_file=told.ca_file)
    fetcher = server.Models(identity, told.ca_file)
    pulse = Pulse(transport, told.cores, min(reply.heartbeat_s, reply.lease_s / 3))
    agent = Agent(
        transport,
        Measurer(runtimes, state / "noise", told.cores),
        ModelCache(state / "models", fetcher.fetch),
        Spool(state / "spool"),
        pulse,
    )
    _handle_signals(agent)
    pulse.start()
    _log.info("device %s is ready on cores %s", reply.device_id, list(told.cores))
    try:
        if found is None:
            _announce(agent, pulse, runtimes, told.cores)
        agent.run()
    finally:
        pulse.close()
        transport.close()
        fetcher.close()
    _log.info("device %s has ended", reply.device_id)


def _announce(
    agent: Agent, pulse: Pulse, runtimes: Mapping[str, str], cores: Sequence[int]
) -> None:
    """Say what the device is now: since it enrolled, a library or the machine may have changed."""
    try:
        found = describe_device(runtimes, cores, agent.ending)
    except Withdrawn:
        return
    if isinstance(found, MeasureError):
        _log.warning("what this machine is could not be found out: %s", found.message)
    else:
        pulse.announce(Hello(capabilities=found))


def _handle_signals(agent: Agent) -> None:
    """A thread acts on signals: a handler runs inside whatever the main thread does, locks
    held."""
    received: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.put(number)

    def act() -> None:
        if received.get() == signal.SIGTERM:
            agent.drain()
            received.get()
        agent.stop()

    threading.Thread(target=act, name="signals", daemon=True).start()
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


if __name__ == "__main__":
    raise SystemExit(main())
