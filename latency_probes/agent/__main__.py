"""`python -m latency_probes.agent`: enrols this machine as a device, then measures until it is
told to end.

SIGTERM drains: what is being measured is finished. SIGINT, or a second SIGTERM, ends at once; what
was being measured is claimed again at the next start. Exit codes: 0 ended as told, 1 could not
enrol, 2 wrong arguments.
"""

import argparse
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

from pydantic import ValidationError

from latency_probes.agent import credentials, server
from latency_probes.agent.backoff import Backoff
from latency_probes.agent.heartbeat import Pulse
from latency_probes.agent.loop import Agent
from latency_probes.agent.models import ModelCache
from latency_probes.agent.spool import Spool
from latency_probes.conditions import parse_cores, read_capabilities, usable_cores
from latency_probes.measure import Measurer
from latency_probes.messages import Enrolment
from latency_probes.runtimes import registry
from latency_probes.runtimes.replay import FILE_VARIABLE, Recording
from latency_probes.spawn import describe_runtimes
from latency_probes.transport import RedisTransport

_log = logging.getLogger("latency_probes.agent")


class StartError(Exception):
    """The agent cannot start; the message says what to change."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; returns its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        runtimes = _runtimes(arguments)
        labels = _labels(arguments.labels)
        cores = parse_cores(arguments.cores) if arguments.cores else usable_cores()
        state = _locked(arguments.state_dir)
    except (ValueError, OSError) as error:
        _log.error("%s", error)
        return 2
    try:
        identity = _identity(arguments, runtimes, labels, cores)
    except (StartError, server.Refused, credentials.CredentialsError) as error:
        _log.error("%s", error)
        return 1
    _serve(identity, arguments, runtimes, cores, state)
    return 0


TOKEN_VARIABLE = "SECATEUR_TOKEN"  # so that it need not be on the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m latency_probes.agent", description=__doc__)
    parser.add_argument("--server", required=True, help="the API's address, as http://host:port")
    parser.add_argument(
        "--token",
        default=os.environ.get(TOKEN_VARIABLE),
        help=f"one-off enrolment token, for the first start only (default: ${TOKEN_VARIABLE})",
    )
    parser.add_argument("--name", default="device", help="how the device is called")
    parser.add_argument("--state-dir", type=Path, required=True, help="credentials, spool, cache")
    parser.add_argument(
        "--cores", help="CPU numbers to measure on: 1 or 0,2 or 2-5 (default: all)"
    )
    parser.add_argument("--labels", action="append", default=[], help="key=value[,key=value]")
    parser.add_argument("--runtimes", default="", help="comma list (default: all but replay)")
    parser.add_argument("--replay", type=Path, help="recording for the runtime replay")
    parser.add_argument("--redis-url", help="use this address instead of the one enrolled with")
    parser.add_argument("--wait-s", type=float, default=60.0, help="how long to try to enrol")
    return parser


def _runtimes(arguments: argparse.Namespace) -> Mapping[str, str]:
    names = tuple(name for name in arguments.runtimes.split(",") if name)
    if arguments.replay is not None:
        Recording.parse(arguments.replay.read_text("utf-8"))
        os.environ[FILE_VARIABLE] = str(arguments.replay.resolve())
    return registry.offered(names)


def _labels(given: Sequence[str]) -> dict[str, str]:
    labels = {}
    for pair in ",".join(given).split(","):
        key, equals, value = pair.partition("=")
        if pair and not (key and equals):
            raise ValueError(f"labels must be key=value, but got {pair!r}")
        if pair:
            labels[key] = value
    return labels


def _locked(directory: Path) -> int:
    """Make the state directory, and hold it: two agents with one identity would disturb each
    other."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ValueError(f"another agent already runs on {directory}") from error
    return handle


def _identity(
    arguments: argparse.Namespace,
    runtimes: Mapping[str, str],
    labels: Mapping[str, str],
    cores: Sequence[int],
) -> credentials.Credentials:
    path = arguments.state_dir / "credentials.json"
    kept = credentials.load(path)
    if kept is not None:
        return kept.model_copy(update={"server": arguments.server.rstrip("/")})
    if not arguments.token:
        raise StartError("--token must be given at the first start")
    found = describe_runtimes(runtimes)
    if not found:
        raise StartError(f"none of the runtimes {sorted(runtimes)} works on this machine")
    try:
        enrolment = Enrolment(
            token=arguments.token,
            name=arguments.name,
            labels=dict(labels),
            capabilities=read_capabilities(found, cores),
        )
    except ValidationError as error:
        raise StartError(f"name and labels must be short plain words, but: {error}") from error
    fresh = _enrol(arguments.server.rstrip("/"), enrolment, arguments.wait_s)
    credentials.save(path, fresh)
    return fresh


def _enrol(address: str, enrolment: Enrolment, wait_s: float) -> credentials.Credentials:
    backoff = Backoff(random.Random())
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return server.enrol(address, enrolment)
        except server.Unavailable as error:
            if time.monotonic() > deadline:
                raise StartError(f"no enrolment within {wait_s:.0f} s: {error}") from error
            _log.info("enrolling again soon: %s", error)
        time.sleep(backoff.next_s())


def _serve(
    identity: credentials.Credentials,
    arguments: argparse.Namespace,
    runtimes: Mapping[str, str],
    cores: Sequence[int],
    lock: int,
) -> None:
    reply, state = identity.reply, arguments.state_dir
    url = arguments.redis_url or reply.redis_url
    transport = RedisTransport(url, reply.device_id, reply.secret)
    fetcher = server.Models(identity)
    pulse = Pulse(transport, cores, min(reply.heartbeat_s, reply.lease_s / 3))
    agent = Agent(
        transport,
        Measurer(runtimes, state / "noise", cores),
        ModelCache(state / "models", fetcher.fetch),
        Spool(state / "spool"),
        pulse,
    )
    _handle_signals(agent)
    pulse.start()
    _log.info("device %s is ready on cores %s", reply.device_id, list(cores))
    try:
        agent.run()
    finally:
        pulse.close()
        transport.close()
        fetcher.close()
        os.close(lock)
    _log.info("device %s has ended", reply.device_id)


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
