"""A measurement as it is sent and stored: raw samples first, what was computed from them, and
under which conditions. The validators recompute what follows from the samples: a receiver trusts
no number it can check."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from statistics import median
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    StringConstraints,
    model_validator,
)

from latency_probes import intervals

# How samples are taken; a change that moves ratios gets a new number, and cached measurements
# expire.
PROTOCOL = 3
MAX_SAMPLES = 50_000
MAX_LAYERS = 2000

Nanoseconds = Annotated[int, Field(ge=1, le=10**13)]
Round = Annotated[tuple[Nanoseconds, ...], Field(min_length=1, max_length=1000)]
Rounds = Annotated[tuple[Round, ...], Field(min_length=1, max_length=1000)]
Verdict = Literal["ok", "noisy", "throttled", "unstable"]
Text = Annotated[str, StringConstraints(max_length=200)]
Word = Annotated[str, StringConstraints(max_length=100)]
LayerTime = tuple[Word, Word, Annotated[int, Field(ge=0, le=10**13)]]  # name, operator, ns


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Replicate(_Part):
    """What one process measured. Rounds pair a block of candidate calls with one of reference
    calls.

    Attributes:
        sentinel_ns: what the small loop took at least, and around the rounds; 0 is unknown.
        retaken: rounds that were taken again or set aside because they were disturbed.
        retaken_ratio: the median of their ratios.
        setup_ms: importing the runtime and making both models ready.
        timing_ms: warm-up and rounds of both models.
        process_ms: the whole life of the process, as its parent saw it.
    """

    candidate_ns: Rounds
    reference_ns: Rounds
    candidate_cold_ns: Nanoseconds
    reference_cold_ns: Nanoseconds
    candidate_faults: NonNegativeFloat = 0.0
    reference_faults: NonNegativeFloat = 0.0
    sentinel_ns: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    warmup_calls: NonNegativeInt = 0
    warm: bool = True
    retaken: NonNegativeInt = 0
    retaken_ratio: PositiveFloat | None = None
    preemptions: NonNegativeInt = 0
    setup_ms: NonNegativeFloat = 0.0
    timing_ms: NonNegativeFloat = 0.0
    process_ms: NonNegativeFloat = 0.0
    candidate_load_ms: NonNegativeFloat = 0.0
    reference_load_ms: NonNegativeFloat = 0.0
    peak_rss_mb: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.candidate_ns) != len(self.reference_ns):
            raise ValueError(
                "candidate_ns and reference_ns must have the same number of rounds, "
                f"but got {len(self.candidate_ns)} and {len(self.reference_ns)}"
            )
        return self

    @property
    def ratio(self) -> float:
        """This replicate's paired ratio, candidate over reference."""
        return intervals.paired_ratio(self.candidate_ns, self.reference_ns)

    @property
    def median_reference_ns(self) -> float:
        """What a call of the reference took: the median of all its samples."""
        return median(chain.from_iterable(self.reference_ns))


class Conditions(_Part):
    """How the device was while it measured; None is unknown.

    Attributes:
        environment: kernel and allocator settings, in words: what moves ratios and stays the same
            from one measurement to the next.
        repeated: replicates that were set aside because the device was disturbed.
        disturbed_ratio: the median ratio of such replicates and rounds.
    """

    cores: tuple[NonNegativeInt, ...] = Field(default=(), max_length=1024)
    governor: Text | None = None
    environment: Text | None = None
    frequency_mhz: PositiveFloat | None = None
    temperature_c: float | None = None
    load: NonNegativeFloat | None = None
    memory_available_mb: NonNegativeInt | None = None
    sentinel_baseline_ns: NonNegativeInt = 0
    repeated: NonNegativeInt = 0
    disturbed_ratio: PositiveFloat | None = None


class Spread(_Part):
    """`intervals.Spread` on the wire."""

    count: int = Field(ge=1)
    median_ns: PositiveFloat
    iqr_ns: NonNegativeFloat
    mad_ns: NonNegativeFloat
    min_ns: Nanoseconds
    p90_ns: PositiveFloat | None
    outliers: NonNegativeInt
    p99_ns: PositiveFloat | None = None


class Measurement(_Part):
    """The paired latency ratio of a candidate to its reference, with 95 % interval and raw
    samples.

    Attributes:
        cold_ms, load_ms, peak_rss_mb: medians over the replicates: the first call, from the
            model's bytes to ready, and the memory of the process with both models in it.
        profile: the candidate's layers, where they were asked for and the runtime can tell.
    """

    type: Literal["measurement"] = "measurement"
    kind: Literal["screening", "strict"]
    replicates: tuple[Replicate, ...] = Field(min_length=2, max_length=32)
    ratio: PositiveFloat
    ratio_low: PositiveFloat
    ratio_high: PositiveFloat
    latency_ms: PositiveFloat
    reference_ms: PositiveFloat
    cold_ms: PositiveFloat
    reference_cold_ms: PositiveFloat | None = None
    load_ms: NonNegativeFloat | None = None
    reference_load_ms: NonNegativeFloat | None = None
    peak_rss_mb: NonNegativeFloat | None = None
    candidate: Spread
    reference: Spread
    verdict: Verdict
    reasons: tuple[Text, ...] = Field(default=(), max_length=16)
    conditions: Conditions = Conditions()
    runtime_version: Text
    protocol: int = Field(default=PROTOCOL, ge=1)
    profile: tuple[LayerTime, ...] = Field(default=(), max_length=MAX_LAYERS)

    @model_validator(mode="after")
    def _follows_from_samples(self) -> Self:
        rounds = chain.from_iterable((*r.candidate_ns, *r.reference_ns) for r in self.replicates)
        if (count := sum(map(len, rounds))) > MAX_SAMPLES:
            raise ValueError(f"samples must be at most {MAX_SAMPLES}, but got {count}")
        for name, found in summary(self.replicates).items():
            said = getattr(self, name)
            if not _agree(said, found):
                raise ValueError(f"{name} must follow from the samples ({found}), but got {said}")
        return self


def summary(replicates: Sequence[Replicate]) -> dict[str, Any]:
    """The fields of a `Measurement` that follow from its samples."""
    found = intervals.ratio_interval([r.ratio for r in replicates])
    candidate = [list(chain.from_iterable(r.candidate_ns)) for r in replicates]
    reference = [list(chain.from_iterable(r.reference_ns)) for r in replicates]
    return {
        "ratio": found.ratio,
        "ratio_low": found.low,
        "ratio_high": found.high,
        "latency_ms": median(map(median, candidate)) / 1e6,
        "reference_ms": median(map(median, reference)) / 1e6,
        "cold_ms": median(r.candidate_cold_ns for r in replicates) / 1e6,
        "candidate": Spread(**asdict(intervals.spread(list(chain.from_iterable(candidate))))),
        "reference": Spread(**asdict(intervals.spread(list(chain.from_iterable(reference))))),
    }


def _agree(said: Any, found: Any) -> bool:
    """Whether two numbers, or two spreads, are the same but for rounding."""
    if isinstance(said, Spread):
        pairs = zip(said.model_dump().values(), found.model_dump().values(), strict=True)
        return all(_agree(a, b) for a, b in pairs)
    if said is None or found is None:
        return said is found
    return math.isclose(said, found, rel_tol=1e-6)
