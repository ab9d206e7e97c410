"""A/A trials: how far two measurements of one model differ, and how often an interval holds the
truth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.latency.bench import Bench
from benchmarks.latency.figures import Figure
from benchmarks.latency.models import Pair
from latency_probes.intervals import quantile
from latency_probes.messages import Settings
from latency_probes.samples import Measurement

APART_S = 60.0
TRUTH_MEASUREMENTS = 15  # of two replicates each
CALM = 1.07


@dataclass(frozen=True)
class Trial:
    """Two measurements of one model, following each other or (`far`) a minute or more apart."""

    first: Measurement
    second: Measurement
    far: bool

    @property
    def difference(self) -> float:
        """|log ratio|."""
        return abs(math.log(self.first.ratio / self.second.ratio))

    @property
    def is_calm(self) -> bool:
        """Whether neither of them was throttled."""
        return "throttled" not in (self.first.verdict, self.second.verdict)


@dataclass
class Trials:
    """What came of them.

    Attributes:
        truth: ratio and reference latency (ns) of the replicates that were spread over the run.
    """

    trials: list[Trial] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    truth: list[tuple[float, float]] = field(default_factory=list)

    @property
    def calm(self) -> list[float]:
        """Ratios of those replicates for the truth in which the reference model was as fast as
        usual; the candidate has no say in it."""
        usual = quantile(sorted(reference for _, reference in self.truth), 1 / 8)
        return [ratio for ratio, reference in self.truth if reference <= CALM * usual]

    @property
    def true(self) -> float:
        """The ratio pooled over the calm replicates."""
        return math.exp(sum(map(math.log, self.calm)) / len(self.calm))

    @property
    def coverage(self) -> float:
        """The share of intervals that hold the pooled ratio."""
        held = [m.ratio_low <= self.true <= m.ratio_high for m in self.measurements]
        return sum(held) / len(held)

    def figures(self, title: str, limit: float) -> list[Figure]:
        """Shares and quantiles; `limit` is the difference that 95 % of trials may have."""
        every = [trial.difference for trial in self.trials]
        calm = [trial.difference for trial in self.trials if trial.is_calm]
        share = _within(every, limit)
        widths = [(m.ratio_high - m.ratio_low) / (2 * m.ratio) for m in self.measurements]
        return [
            Figure(f"{title}: A/A trials within {limit:.0%}", share, "%", low=95.0),
            Figure(f"{title}: A/A difference, median", 100 * median(every), "%"),
            Figure(f"{title}: A/A difference, 95th percentile", _p95(every), "%"),
            Figure(f"{title}: the same, one after the other", _p95(self._apart(far=False)), "%"),
            Figure(f"{title}: the same, a minute apart", _p95(self._apart(far=True)), "%"),
            Figure(f"{title}: trials of which none was throttled", len(calm)),
            Figure(f"{title}: of these within {limit:.0%}", _within(calm, limit), "%"),
            Figure(f"{title}: coverage of 95 % intervals", 100 * self.coverage, "%", 90.0, 98.0),
            Figure(f"{title}: half width of intervals, median", 100 * median(widths), "%"),
            Figure(f"{title}: calm replicates for the truth", len(self.calm)),
        ]

    def _apart(self, *, far: bool) -> list[float]:
        return [trial.difference for trial in self.trials if trial.far == far]

    def document(self) -> dict[str, Any]:
        """Everything but the samples."""
        shown = [
            {"ratio": m.ratio, "low": m.ratio_low, "high": m.ratio_high, "verdict": m.verdict}
            for m in self.measurements
        ]
        return {
            "near": self._apart(far=False),
            "far": self._apart(far=True),
            "truth": self.truth,
            "measurements": shown,
        }


def run(
    bench: Bench,
    pair: Pair,
    trials: int,
    settings: Callable[[int], Settings],
    say: Callable[[str], None],
) -> Trials:
    """Half of the trials one after the other, the others a minute or more apart.

    Args:
        settings: the settings of the n-th measurement.
        say: receives a line now and then.
    """
    found = Trials()
    total, every = 2 * trials, max(2 * trials // TRUTH_MEASUREMENTS, 1)

    def take() -> Measurement:
        number = len(found.measurements)
        if number % every == 0 and len(found.truth) < 2 * TRUTH_MEASUREMENTS:
            found.truth.extend(_truth(bench, pair, number))
        found.measurements.append(_as_the_service(bench, pair, settings(number)))
        if (number + 1) % 20 == 0:
            say(f"{number + 1} of {total} measurements")
        return found.measurements[-1]

    firsts = [(time.monotonic(), take()) for _ in range(trials // 2)]
    found.trials = [Trial(take(), take(), far=False) for _ in range(trials - trials // 2)]
    for begun, first in firsts:
        time.sleep(max(begun + APART_S - time.monotonic(), 0))
        found.trials.append(Trial(first, take(), far=True))
    while len(found.truth) < 2 * TRUTH_MEASUREMENTS:
        found.truth.extend(_truth(bench, pair, len(found.truth)))
    return found


def _as_the_service(bench: Bench, pair: Pair, settings: Settings) -> Measurement:
    """One measurement; what is throttled is taken once more, like a screening by the collector."""
    found = bench.measure(pair.candidate, pair.reference, settings)
    if found.verdict == "throttled":
        found = bench.measure(pair.candidate, pair.reference, settings)
    return found


def _truth(bench: Bench, pair: Pair, number: int) -> list[tuple[float, float]]:
    """Two replicates for the pooled ratio, each with its reference latency."""
    settings = Settings(replicates=2, max_replicates=2, timing_s=0.25, seed=10_000 + number)
    found = bench.measure(pair.candidate, pair.reference, settings)
    return [(replicate.ratio, replicate.median_reference_ns) for replicate in found.replicates]


def _p95(differences: Sequence[float]) -> float:
    return 100 * quantile(sorted(differences), 0.95)


def _within(differences: Sequence[float], limit: float) -> float:
    return 100 * sum(d <= limit for d in differences) / max(len(differences), 1)
