"""What a runtime is. A timed runtime loads models in the measuring child; a recorded one answers
in the parent without running anything. Imports only the standard library, since both sides read
it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

Call = Callable[[], object]


class UnsupportedOperator(Exception):
    """The runtime does not know one of the model's operators."""


class InvalidModel(Exception):
    """The runtime refuses the model: malformed, wrong shapes, a provider that is not there."""


@dataclass(frozen=True)
class Placement:
    """Where and how a model is to run."""

    provider: str
    batch_size: int
    threads: int


@dataclass(frozen=True)
class Description:
    """What a runtime is and what it can run on."""

    version: str
    providers: tuple[str, ...]


@dataclass(frozen=True)
class Recorded:
    """A recorded latency, or the error recorded in its place."""

    latency_ns: int = 0
    error_kind: str = ""
    error: str = ""


class Runtime(Protocol):
    """Entry points of the group `secateur.runtimes` name a callable without arguments that gives
    one."""

    def describe(self) -> Description: ...

    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        """Make the model ready; each call of what is returned is one inference.

        Raises:
            UnsupportedOperator, InvalidModel: as their names say.
            MemoryError: the model does not fit.
        """
        ...


@runtime_checkable
class RecordedRuntime(Protocol):
    """A runtime whose latencies are looked up: no process is spawned for it."""

    delay_s: float

    def describe(self) -> Description: ...

    def look_up(self, digest: str, model: bytes) -> Recorded: ...
