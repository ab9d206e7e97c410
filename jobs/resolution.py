"""What a check of a device tells: how well it repeats itself, and which differences it resolves.

Pure numbers; knows no table and no clock. A trial is one measurement of a model against itself
under a lease of its own; the truth is a ratio of 1.

| symbol | meaning | unit |
|---|---|---|
| q | paired ratio of one replicate (process), candidate over reference | 1 |
| s | standard deviation of log q over all screening replicates of the check | 1 |
| c | what a replicate costs: its process from start to end | s |
| n | replicates that fit into T seconds: floor(T / c) | 1 |
| f | degrees of freedom of s: screening replicates of the check, less one | 1 |
| d | exp(t(f) * s * sqrt(2 / n)) - 1: two candidates that differ by less look alike | 1 |
| β, T | budget as a ratio to the dense latency; levels of a search | 1 |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import fmean, median, stdev
from typing import Any, Self

from latency_probes import intervals
from latency_probes.messages import Settings
from latency_probes.samples import Measurement, Replicate

Document = dict[str, Any]
SECONDS = (1, 5, 30)
MOST_DEGREES = 31  # of the table of t; beyond it t is 2 % too high at most


@dataclass(frozen=True)
class Trial:
    """One measurement of a model against itself.

    Attributes:
        at: When it came in, as ISO 8601.
        logs: log q of each replicate.
        rounds: For each replicate, the logs of its rounds' ratios.
        setup_s: Of each replicate: importing the runtime and loading both models.
        timing_s: Of each replicate: warm-up and rounds.
        process_s: Of each replicate: its whole process.
    """

    at: str
    kind: str
    verdict: str
    ratio: float
    low: float
    high: float
    reference_ms: float
    logs: tuple[float, ...]
    rounds: tuple[tuple[float, ...], ...]
    setup_s: tuple[float, ...] = ()
    timing_s: tuple[float, ...] = ()
    process_s: tuple[float, ...] = ()

    @classmethod
    def of(cls, measurement: Measurement, at: str) -> Self:
        """A stored measurement as a trial."""
        replicates = measurement.replicates
        return cls(
            at=at,
            kind=measurement.kind,
            verdict=measurement.verdict,
            ratio=measurement.ratio,
            low=measurement.ratio_low,
            high=measurement.ratio_high,
            reference_ms=measurement.reference_ms,
            logs=tuple(math.log(each.ratio) for each in replicates),
            rounds=tuple(_round_logs(each) for each in replicates),
            setup_s=tuple(each.setup_ms / 1000 for each in replicates),
            timing_s=tuple(each.timing_ms / 1000 for each in replicates),
            process_s=tuple(each.process_ms / 1000 for each in replicates),
        )

    @property
    def covers(self) -> bool:
        """Whether the interval contains the truth."""
        return self.low <= 1.0 <= self.high


def document(trials: Sequence[Trial]) -> Document:
    """All that a check found, as JSON.

    Args:
        trials: At least two, and at most 32; in the order in which they came.

    Raises:
        ValueError: fewer than two, or more than 32.
    """
    if not 2 <= len(trials) <= MOST_DEGREES + 1:
        raise ValueError(f"trials must be 2 to {MOST_DEGREES + 1}, but got {len(trials)}")
    whole = intervals.ratio_interval([trial.ratio for trial in trials])
    ranked = [trial for trial in trials if trial.kind == "screening"] or trials
    spread, cost = replicate_sd(ranked), _mean(trial.process_s for trial in ranked)
    degrees = sum(len(trial.logs) for trial in ranked) - 1
    return {
        "ratio": whole.ratio,
        "ratio_low": whole.low,
        "ratio_high": whole.high,
        "within_1_percent": share(abs(trial.ratio - 1) <= 0.01 for trial in trials),
        "within_2_percent": share(abs(trial.ratio - 1) <= 0.02 for trial in trials),
        "coverage": share(trial.covers for trial in trials),
        "between_sd": spread,
        "within_sd": round_sd(ranked),
        "setup_s": _mean(trial.setup_s for trial in ranked),
        "timing_s": _mean(trial.timing_s for trial in ranked),
        "replicate_s": cost,
        "reference_ms": median(trial.reference_ms for trial in trials),
        "screening": smallest_difference(spread, degrees, Settings.screening().replicates),
        "resolution": [
            {
                "seconds": seconds,
                "replicates": n,
                "difference": smallest_difference(spread, degrees, n),
            }
            for seconds in SECONDS
            for n in [replicates_in(seconds, cost)]
        ],
        "trials": [_shown(trial) for trial in trials],
    }


def moment(at: str, reference: str, reference_ms: float | None, raw: Document) -> Document:
    """One point of a device's history: what its sentinel and a reference took at that time.

    Args:
        reference: The digest of the reference; times of different ones do not compare.
        raw: A measurement as it is stored.
    """
    seen = [min(each["sentinel_ns"]) for each in raw["replicates"]]
    known = [each for each in seen if each > 0]
    sentinel_us = median(known) / 1000 if known else None
    return {
        "at": at,
        "sentinel_us": sentinel_us,
        "reference_ms": reference_ms,
        "reference": reference[:12],
    }


def replicate_sd(trials: Sequence[Trial]) -> float:
    """s: how much processes differ, those of different leases included."""
    return stdev(chain.from_iterable(trial.logs for trial in trials))


def round_sd(trials: Sequence[Trial]) -> float | None:
    """The standard deviation of log ratios of rounds within a process, pooled over processes;
    None where no process has two rounds."""
    processes = [logs for trial in trials for logs in trial.rounds if len(logs) > 1]
    degrees = sum(len(logs) - 1 for logs in processes)
    squares = sum((log - fmean(logs)) ** 2 for logs in processes for log in logs)
    return math.sqrt(squares / degrees) if degrees else None


def replicates_in(seconds: float, cost_s: float | None) -> int | None:
    """n: how many replicates fit; None where their cost is not known, as of recorded ones."""
    return math.floor(seconds / cost_s) if cost_s else None


def smallest_difference(spread: float, degrees: int, replicates: int | None) -> float | None:
    """d: the least relative difference of two candidates that n replicates of each resolve at
    95 %; None for fewer than two."""
    if replicates is None or replicates < 2:
        return None
    t = intervals.student_t95(min(degrees, MOST_DEGREES))
    return math.expm1(t * spread * math.sqrt(2 / replicates))


def level_step(budget: float, levels: int) -> float:
    """By how much each of the T geometric levels from 1 to β < 1 lies below the one before,
    relative to that."""
    return 1.0 - math.exp(math.log(budget) / levels)


def most_levels(budget: float, resolved: float) -> int:
    """The most geometric levels from 1 to β < 1 of which each lies at least `resolved` below the
    one before; at least 1."""
    if resolved >= 1:
        return 1
    return max(math.floor(math.log(budget) / math.log1p(-resolved) + 1e-9), 1)


def share(truths: Iterable[bool]) -> float:
    """How many of these are true, 0 to 1."""
    return fmean(map(float, truths))


def _round_logs(replicate: Replicate) -> tuple[float, ...]:
    pairs = zip(replicate.candidate_ns, replicate.reference_ns, strict=True)
    return tuple(math.log(min(c) / min(r)) for c, r in pairs)


def _mean(times: Iterable[Sequence[float]]) -> float | None:
    """The mean over all replicates; None where it is not known."""
    known = [each for trial in times for each in trial if each > 0]
    return fmean(known) if known else None


def _shown(trial: Trial) -> Document:
    hidden = {"logs", "rounds", "setup_s", "timing_s", "process_s"}
    plain = {name: value for name, value in asdict(trial).items() if name not in hidden}
    return plain | {"covers": trial.covers, "replicates": len(trial.logs)}
