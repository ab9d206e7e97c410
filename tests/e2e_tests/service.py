"""A running stack with the replay runtime, and the job that these tests submit to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.client import Client
from api.routes.views import JobView
from api.stack.background import background
from tests.e2e_tests.nets import SHAPE, write_dataset, write_weights

ARCHITECTURE = "python:tests.e2e_tests.nets:tiny_resnet"
OPTIONS = ("--port", "0", "--workers", "1", "--probe-runtime", "replay", "--allow", ARCHITECTURE)
JOB_TIMEOUT_S = 240.0
TERMINAL = {"succeeded", "failed", "infeasible", "cancelled"}


@dataclass(frozen=True)
class Service:
    """A stack that is up, and how to look behind its API."""

    home: Path
    url: str
    client: Client

    def children(self) -> dict[str, Any]:
        """The stack's processes, as it notes them."""
        children: dict[str, Any] = json.loads((self.home / "up.json").read_text())["children"]
        return children

    def child(self, name: str) -> int:
        """The process id of one of the stack's processes."""
        return int(self.children()[name]["pid"])

    def kill(self, name: str) -> int:
        """`kill -9` of one process; returns its process id."""
        pid = self.child(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def replaced(self, name: str, pid: int, timeout_s: float = 20.0) -> bool:
        """Whether another process takes the place of the killed one."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.child(name) != pid:
                return True
            time.sleep(0.1)
        return False

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Reads the database directly."""
        connection = sqlite3.connect(f"file:{self.home}/secateur.db?mode=ro", uri=True)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def wait(self, job_id: str, done: Callable[[JobView], bool] | None = None) -> JobView:
        """The job once `done` holds, by default once it has ended."""
        holds = done or (lambda job: job.state in TERMINAL)
        deadline = time.monotonic() + JOB_TIMEOUT_S
        while time.monotonic() < deadline:
            job = self.client.jobs.get(job_id)
            if holds(job) or job.state in TERMINAL:
                return job
            time.sleep(0.1)
        raise TimeoutError(f"{job_id} is still {job.state}: {job.progress} {job.waiting_for}")


@contextmanager
def service(home: Path, *options: str) -> Iterator[Service]:
    """`secateur up` on `home` for the `with` block."""
    with background(home, [*OPTIONS, *options]) as url, Client(url) as client:
        yield Service(home, url, client)


def add_inputs(running: Service, folder: Path) -> None:
    """Submits the network `tiny` and the data set `stripes`, and waits until both are ready."""
    weights = write_weights(folder / "tiny.safetensors")
    spec = {"name": "tiny", "architecture": ARCHITECTURE, "input_shape": list(SHAPE)}
    running.client.models.add(spec, weights)
    data = write_dataset(folder / "stripes.npz")
    running.client.datasets.add({"name": "stripes", "format": "npz", "path": str(data)})
    assert running.client.models.wait("tiny").state == "ready"
    assert running.client.datasets.wait("stripes").state == "ready"


def copy_home(running: Service, home: Path) -> Path:
    """A home with the same database, files and probe, for another stack."""
    home.mkdir(mode=0o700)
    with (
        closing(sqlite3.connect(running.home / "secateur.db")) as database,
        closing(sqlite3.connect(home / "secateur.db")) as copy,
    ):
        database.backup(copy)
    for name in ("artifacts", "probe"):
        shutil.copytree(running.home / name, home / name)
    return home


def job_spec(**changes: Any) -> dict[str, Any]:
    """A job of half a minute: two levels, two children, a short fine-tuning."""
    return {
        "model": "tiny",
        "dataset": "stripes",
        "budget": {"ratio": 0.6},
        "target": {"runtime": "replay"},
        "search": {
            "levels": 2,
            "beam_width": 2,
            "children": 2,
            "calibration_images": 128,
            "finalists": 1,
        },  # fmt: skip
        "finetune": {"steps": 60, "batch_size": 64, "learning_rate": 0.02},
        **changes,
    }
