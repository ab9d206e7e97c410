"""What an agent costs a device that has nothing to measure: time to start, memory, processor time.

    python -m benchmarks.agent --seconds 60 --json OUT

The agent runs as it does on a device, with every runtime that is installed here, against a real
broker, API and collector. Its start is counted from the command to its first heartbeat in the
database, once with enrolment and once without. Exit code 1 where a figure is over its limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks.faults.processes import Installation, Part
from benchmarks.faults.run import server_context
from jobs.columns import utc_now
from jobs.repository import devices
from workers.context import Context

_START_S = 60.0
_SETTLE_S = 5.0
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Figure:
    """One measured quantity; `limit` is None where nothing is promised."""

    name: str
    value: float
    unit: str
    limit: float | None = None


def measure(home: Path, seconds: float) -> list[Figure]:
    """Start an agent twice on an empty directory, and watch the second one idle."""
    context = server_context(home, lease_s=30.0)
    (home / "logs").mkdir()
    with Installation(context, home) as installation:
        agent = installation.add_agent("idle")
        with_enrolment = _started(context, agent)
        agent.end()
        without = _started(context, agent)
        process = psutil.Process(agent.pid)
        to_start = _cpu_s(process)
        time.sleep(_SETTLE_S)
        before, began = _cpu_s(process), time.monotonic()
        time.sleep(seconds)
        share = (_cpu_s(process) - before) / (time.monotonic() - began)
        rss = process.memory_info().rss / _MEBIBYTE
    return [
        Figure("start with enrolment", with_enrolment, "s"),
        Figure("start", without, "s", 1.0),
        Figure("processor time to start", to_start, "s"),
        Figure("resident memory, idle", rss, "MB", 60.0),
        Figure("processor time, idle", 100 * share, "%", 0.5),
    ]


def _started(context: Context, agent: Part) -> float:
    """Seconds from the command to the first heartbeat that the collector has stored."""
    began, moment = time.monotonic(), utc_now()
    agent.start()
    while not _is_seen(context, moment):
        if time.monotonic() - began > _START_S:
            raise TimeoutError(f"the agent must be online within {_START_S:.0f} s")
        time.sleep(0.01)
    return time.monotonic() - began


def _is_seen(context: Context, since: datetime) -> bool:
    with context.read() as session:
        known = devices.all_devices(session)
    return any(device.last_seen is not None and device.last_seen > since for device in known)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch it idle")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="secateur-agent-") as directory:
        figures = measure(Path(directory), arguments.seconds)
    for figure in figures:
        limit = "" if figure.limit is None else f"  (at most {figure.limit:g})"
        sys.stdout.write(f"{figure.name:<24}{figure.value:>8.2f} {figure.unit}{limit}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n")
    return int(any(f.limit is not None and f.value > f.limit for f in figures))


if __name__ == "__main__":
    raise SystemExit(main())
