"""Runtimes that go wrong in the ways that a device must survive."""

import ctypes
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from latency_probes.runtimes.base import Call, InvalidModel, Layer, Placement


class _Runtime:
    def version(self) -> str:
        return "0"

    def providers(self) -> tuple[str, ...]:
        return ("CPUExecutionProvider",)

    def lacking(self, model: bytes, placement: Placement) -> tuple[str, ...]:
        return ()

    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        return self.call

    def call(self) -> object:
        raise NotImplementedError


class Hangs(_Runtime):
    def call(self) -> object:
        time.sleep(60)
        return None


class Segfaults(_Runtime):
    def call(self) -> object:
        return ctypes.string_at(0)


class Raises(_Runtime):
    def call(self) -> object:
        raise RuntimeError("surprise")


class IsKilled(_Runtime):
    def call(self) -> object:
        os.kill(os.getpid(), signal.SIGKILL)
        return None


class EatsMemory(_Runtime):
    def call(self) -> object:
        return b"x" * 2**34


class Leaks(_Runtime):
    """Keeps more at every call, and takes none back."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def call(self) -> object:
        self.kept.append(b"x" * 2**26)
        return None


class Prints(_Runtime):
    def call(self) -> object:
        os.write(1, b"chatter ")
        time.sleep(0.001)
        return None


class Floods(_Runtime):
    """Would fill the disk with its errors."""

    def call(self) -> object:
        while True:
            os.write(2, bytes(2**20))


class EndsStrangely(_Runtime):
    """By a signal without a name of its own."""

    def call(self) -> object:
        os.kill(os.getpid(), signal.SIGRTMIN + 1)
        time.sleep(60)
        return None


class Odd(_Runtime):
    """Says of itself what no description can hold."""

    def providers(self) -> tuple[str, ...]:
        return ("GPU 0",)


class Numbered(_Runtime):
    """Its version is no text."""

    def version(self) -> str:
        return 7  # type: ignore[return-value]


class Curious(_Runtime):
    """Its version tells which of two variables it can see."""

    def version(self) -> str:
        return " ".join(sorted({"DATABASE_URL", "VENDOR_HOME"} & os.environ.keys()))


class Exits(_Runtime):
    def call(self) -> object:
        sys.stderr.write("bye")
        raise SystemExit(0)


class LeavesAChild(_Runtime):
    """Forks a process that would outlive the measurement; its id is left in the cache
    directory."""

    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        (cache / "orphan").write_text(str(child))
        return self.call

    def call(self) -> object:
        time.sleep(0.001)
        return None


class ManyLayers(_Runtime):
    """Has more layers than a message may hold, with names that no message should hold."""

    def call(self) -> object:
        time.sleep(0.001)
        return None

    def profile(self, model: bytes, placement: Placement, cache: Path) -> list[Layer]:
        return [Layer("\n" * 300, "Conv", ns) for ns in range(3000)]


class FailsToProfile(ManyLayers):
    def profile(self, model: bytes, placement: Placement, cache: Path) -> list[Layer]:
        raise InvalidModel("no profile today")


class HasAClockOfItsOwn(ManyLayers):
    """Every look at the clock is a millisecond later than the last."""

    def clock(self, placement: Placement) -> Callable[[], int]:
        return itertools.count(0, 1_000_000).__next__


class NeedsAMissingLibrary(_Runtime):
    def __init__(self) -> None:
        raise ImportError("no such library")


class Refuses(_Runtime):
    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        raise InvalidModel(f"refused {len(model)} bytes at batch {placement.batch_size}")


class ReportsItsEnvironment(_Runtime):
    """Fails with what it was given, for a test to read."""

    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS")
        heavy = sorted({"pydantic", "redis", "httpx", "torch", "onnx"} & set(sys.modules))
        given = [os.environ.get(name) for name in names]
        raise InvalidModel(f"{given} {sorted(os.sched_getaffinity(0))} {heavy}")
