"""How a pool scales: one job's candidates on 1, 2 and 4 agents.

The agents offer the runtime replay and take a fixed time for every measurement, so that what is
missing to a perfect speed-up is the service's part: joining, collector, broker and database.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.latency.figures import Figure
from benchmarks.latency.models import Pair
from benchmarks.latency.service import PATIENCE_S, NoAnswer, Stack, answers, job
from jobs.artifacts import skeleton_name
from jobs.repository import requests, skeletons
from latency_probes.messages import Settings, Target, Workload

COUNTS = (1, 2, 4)
TARGET = Target(runtime="replay")
# Replay looks these up by digest, and never reads them.
PAIR = Pair(b"candidate", b"reference")


def scaling(
    running: Stack,
    candidates: int,
    say: Callable[[str], None],
    *,
    delay_s: float = 0.5,
    counts: Sequence[int] = COUNTS,
) -> tuple[list[Figure], dict[str, Any]]:
    """Candidates an hour by number of agents; the first of them begins alone each time.

    Args:
        running: A stack without a probe of its own (`--no-probe`).
        delay_s: What one measurement takes, whatever it is of.
    """
    seconds: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="secateur-pool-") as folder, ExitStack() as agents:
        recording = _recording(Path(folder), delay_s)
        for count in counts:
            while len(running.client.devices.list()) < count:
                agents.enter_context(_agent(running, Path(folder), recording))
            seconds[count] = _timed(running, candidates)
            say(f"{count} agents: {candidates} candidates in {seconds[count]:.1f} s")
    return figures(seconds, candidates, delay_s), {"pool_seconds": seconds}


def figures(seconds: Mapping[int, float], candidates: int, delay_s: float) -> list[Figure]:
    """What the times say, against what the agents alone would take."""
    return [
        figure
        for count, taken in seconds.items()
        for figure in (
            Figure(f"{count} replay agents: candidates an hour", 3600 * candidates / taken),
            Figure(
                f"{count} replay agents: share of the possible",
                100 * candidates * delay_s / count / taken,
                "%",
            ),
        )
    ]


def _recording(folder: Path, delay_s: float) -> Path:
    latencies = {
        Workload.of(model).digest: {"latency_ns": latency_ns}
        for model, latency_ns in ((PAIR.candidate, 600_000), (PAIR.reference, 1_000_000))
    }
    path = folder / "recording.json"
    path.write_text(json.dumps({"delay_s": delay_s, "latencies": latencies}), "utf-8")
    return path


@contextmanager
def _agent(running: Stack, folder: Path, recording: Path) -> Iterator[None]:
    """One more agent, once the server has heard of it."""
    number = len(running.client.devices.list())
    state = folder / f"agent-{number}"
    command = [
        sys.executable, "-m", "latency_probes.agent", "--server", running.url,
        "--name", f"replay-{number}", "--state-dir", str(state),
        "--runtimes", "replay", "--replay", str(recording),
    ]  # fmt: skip
    token = {"SECATEUR_PROBE_TOKEN": running.client.devices.token().token}
    process = subprocess.Popen(
        command, env=os.environ | token, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(lambda: sum(d.state == "online" for d in running.client.devices.list()) > number)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _timed(running: Stack, candidates: int) -> float:
    """Seconds from asking for all candidates to the last answer; the dense model comes before."""
    first = running.client.devices.list()[0].id
    job_id = _begun(running)
    _ask(running, job_id, {"dense": Settings.strict()}, f"id:{first}", PAIR.reference)
    answers(running, job_id, 1)
    asked = {f"screening:{number}": Settings.screening() for number in range(candidates)}
    started = time.perf_counter()
    _ask(running, job_id, asked, f"pool:{first}", PAIR.candidate)
    _wait(lambda: _open(running, job_id) == 0)
    return time.perf_counter() - started


def _begun(running: Stack) -> str:
    with running.writing.begin() as session:
        return job(session)


def _open(running: Stack, job_id: str) -> int:
    with running.reading() as session:
        return requests.open_count(session, job_id)


def _ask(
    running: Stack, job_id: str, wanted: Mapping[str, Settings], selector: str, model: bytes
) -> None:
    digests = []
    with running.writing.begin() as session:
        for data in (model, PAIR.reference):
            digest = Workload.of(data).digest
            running.store.put(skeleton_name(digest), data, sha256=digest)
            skeletons.add(session, digest, len(data), skeleton_name(digest))
            digests.append(digest)
        for purpose, settings in wanted.items():
            requests.add(
                session, job_id, purpose, skeleton_digest=digests[0], reference_digest=digests[1],
                selector=selector, target=TARGET, settings=settings,
            )  # fmt: skip


def _wait(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_done():
        if time.monotonic() > deadline:
            raise NoAnswer(f"the pool must answer within {PATIENCE_S:.0f} s, but did not")
        time.sleep(0.05)
