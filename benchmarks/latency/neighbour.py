"""An artificial neighbour: a process that burns a core on and off.

    python -m benchmarks.latency.neighbour SEED SECONDS

It ends by itself: after that time, or when its standard input is closed.
"""

from __future__ import annotations

import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SHORTEST_S, LONGEST_S = 0.1, 1.0
MOST_S = 3600.0
STEP_S = 0.02


@contextmanager
def neighbour(seed: int = 0) -> Iterator[None]:
    """A neighbour for the `with` block; the kernel places it on whatever core it likes."""
    command = (sys.executable, "-m", "benchmarks.latency.neighbour", str(seed), str(MOST_S))
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def burn(seed: int, seconds: float) -> None:
    """Busy and idle spells of random length, alternating."""
    source = random.Random(seed)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        spell = time.monotonic() + source.uniform(SHORTEST_S, LONGEST_S)
        while time.monotonic() < spell:
            if _is_closed(0):
                return
            _work()
        if _is_closed(source.uniform(SHORTEST_S, LONGEST_S)):
            return


def _work() -> None:
    until = time.monotonic() + STEP_S
    while time.monotonic() < until:
        sum(range(1000))


def _is_closed(wait_s: float) -> bool:
    """Whether the parent has gone, waiting that long for it."""
    return bool(select.select([sys.stdin], [], [], wait_s)[0])


if __name__ == "__main__":
    burn(int(sys.argv[1]), float(sys.argv[2]))
