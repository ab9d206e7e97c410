"""The simple answers of a job with `target.runtime: auto`: the dense model in float32, and with
all layers in int8 in each format, in every runtime that its device has. The fastest decides which
runtime measures everything else.

Read from what is stored alone: whoever looks sees the same, at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from jobs.runtimes import DENSE, FLOAT32, Answer, dense_purpose, fastest, int8_purpose
from jobs.tables import Measurement

# The tasks that note what the device's runtimes are, once, and which layers may be in int8.
RUNTIMES = "runtimes"
SEGMENTS = "segments"


@dataclass(frozen=True)
class Answers:
    """What is known of them.

    Attributes:
        precision: that the job asks for.
        runtimes: name -> formats of int8; None before they are known.
        first: the runtime that was asked before the device was known.
        layers: whether layers may be in int8; None before it is known.
        ended: whether a request is over, by purpose.
        measurement: what was measured for it.
    """

    precision: str
    runtimes: Mapping[str, tuple[str, ...]] | None
    first: str | None
    layers: bool | None
    ended: Callable[[str], bool]
    measurement: Callable[[str], Measurement | None]

    def purpose(self, runtime: str, form: str = FLOAT32) -> str:
        """The request for one of them."""
        if form != FLOAT32:
            return int8_purpose(runtime, form)
        return DENSE if runtime == self.first else dense_purpose(runtime)

    @property
    def are_in(self) -> bool:
        """Whether all that is asked has been answered."""
        if self.runtimes is None or (self.needs_layers and self.layers is None):
            return False
        return all(self.ended(self.purpose(*each)) for each in self.asked())

    @property
    def needs_layers(self) -> bool:
        """Whether it matters which layers may be in int8."""
        return self.precision != "float32" and any((self.runtimes or {}).values())

    def asked(self) -> Iterator[tuple[str, str]]:
        """Runtime and format of what is to be measured, as far as that is known: int8 where the
        dense model runs in float32."""
        for runtime, formats in (self.runtimes or {}).items():
            yield runtime, FLOAT32
            if self.layers and self.precision != "float32" and self._float_ms(runtime) is not None:
                yield from ((runtime, form) for form in formats)

    def all(self) -> tuple[Answer, ...]:
        """Those that are in, by runtime, float32 first."""
        return tuple(
            self._answer(runtime, form)
            for runtime, form in self.asked()
            if self.ended(self.purpose(runtime, form))
        )

    @property
    def chosen(self) -> str | None:
        """The runtime for all that follows; None before all are in, and where none works."""
        return fastest(self.all(), self.precision) if self.are_in else None

    def _float_ms(self, runtime: str) -> float | None:
        row = self.measurement(self.purpose(runtime))
        return None if row is None else row.latency_ms

    def _answer(self, runtime: str, form: str) -> Answer:
        row, float_ms = self.measurement(self.purpose(runtime, form)), self._float_ms(runtime)
        if row is None:
            return Answer(runtime, form, error="no device answered")
        if row.ratio is None or float_ms is None:
            return Answer(runtime, form, error=f"{row.error_kind}: {row.error_message}")
        if form == FLOAT32:
            return Answer(runtime, form, float_ms, 1.0)
        return Answer(runtime, form, row.ratio * float_ms, row.ratio)
