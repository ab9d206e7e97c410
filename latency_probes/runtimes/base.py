"""What a runtime is. A timed runtime loads models in the measuring child; a recorded one answers
in the parent without running anything. Imports only the standard library, since both sides read
it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

Call = Callable[[], object]
Clock = Callable[[], int]


class UnsupportedOperator(Exception):
    """The runtime does not know one of the model's operators, as far as it was told which."""

    def __init__(self, message: str, operators: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.operators = tuple(operators)


class InvalidModel(Exception):
    """The runtime refuses the model: malformed, wrong shapes, a provider that is not there."""


@dataclass(frozen=True)
class Placement:
    """Where and how a model is to run.

    Attributes:
        sizes: input -> its shape without the batch, for models that leave sizes free.
    """

    provider: str
    batch_size: int
    threads: int
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """The time that one layer usually takes in a call."""

    name: str
    op: str
    ns: int


@dataclass(frozen=True)
class Recorded:
    """A recorded latency, or the error recorded in its place."""

    latency_ns: int = 0
    error_kind: str = ""
    error: str = ""


class Runtime(Protocol):
    """Entry points of the group `secateur.runtimes` name a callable without arguments that gives
    one. Its library is imported by the methods, never by the module."""

    def version(self) -> str:
        """The library's version: measurements of another one are not believed.

        Raises:
            ImportError: the library is missing; the runtime is then left out.
        """
        ...

    def providers(self) -> tuple[str, ...]:
        """What it can run on here; may take as long as it takes to find out."""
        ...

    def lacking(self, model: bytes, placement: Placement) -> tuple[str, ...]:
        """Every operator of the model that it does not know, sorted; asked when `load` raised
        UnsupportedOperator, so that a user is told all of them at once."""
        ...

    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        """Make the model ready; each call of what is returned is one inference, and returns the
        outputs as a sequence.

        Args:
            model: an ONNX file. Initializers marked for filling get their values from
                `runtimes.feeding`.
            cache: a directory that outlives the process.

        Raises:
            UnsupportedOperator, InvalidModel: as their names say.
            MemoryError: the model does not fit.
        """
        ...


@runtime_checkable
class ProfilingRuntime(Protocol):
    """A runtime that can tell how long each layer takes."""

    def profile(self, model: bytes, placement: Placement, cache: Path) -> Sequence[Layer]:
        """The layers that were run, in their order; raises what `load` raises."""
        ...


@runtime_checkable
class IntegerRuntime(Protocol):
    """A runtime that has kernels for layers in int8."""

    def formats(self) -> tuple[str, ...]:
        """Of activations and weights, as `u8s8`; only those that it computes exactly here."""
        ...


@runtime_checkable
class ClockedRuntime(Protocol):
    """A runtime whose calls return before the device is done: the device's clock times them."""

    def clock(self, placement: Placement) -> Clock:
        """Nanoseconds, read when everything that was asked for before is done."""
        ...


@runtime_checkable
class RecordedRuntime(Protocol):
    """A runtime whose latencies are looked up: no process is spawned for it."""

    delay_s: float

    def version(self) -> str: ...

    def providers(self) -> tuple[str, ...]: ...

    def look_up(self, digest: str, model: bytes) -> Recorded: ...
