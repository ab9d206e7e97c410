"""A/A trials: how far two measurements of one model differ, and how often an interval holds the
truth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median
from typing import Any

from benchmarks.latency.bench import Bench
from benchmarks.latency.figures import Figure
from benchmarks.latency.models import Pair
from latency_probes.intervals import quantile
from latency_probes.messages import Settings
from latency_probes.samples import Measurement, Replicate

APART_S = 60.0
TRUTH_MEASUREMENTS = 15  # of two replicates each
CALM = 1.07


@dataclass
class Trials:
    """What came of them.

    Attributes:
        near: |log ratio| of trials whose two measurements followed each other.
        far: the same, a minute or more apart.
        truth: ratio and reference latency (ns) of the replicates that were spread over the run.
    """

    near: list[float] = field(default_factory=list)
    far: list[float] = field(default_factory=list)
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
        every = sorted(self.near + self.far)
        within = sum(d <= limit for d in every) / len(every)
        widths = [(m.ratio_high - m.ratio_low) / (2 * m.ratio) for m in self.measurements]
        return [
            Figure(f"{title}: A/A trials within {limit:.0%}", 100 * within, "%", low=95.0),
            Figure(f"{title}: A/A difference, median", 100 * median(every), "%"),
            Figure(f"{title}: A/A difference, 95th percentile", 100 * quantile(every, 0.95), "%"),
            Figure(f"{title}: the same, one after the other", 100 * _p95(self.near), "%"),
            Figure(f"{title}: the same, a minute apart", 100 * _p95(self.far), "%"),
            Figure(f"{title}: coverage of 95 % intervals", 100 * self.coverage, "%", 90.0, 98.0),
            Figure(f"{title}: half width of intervals, median", 100 * median(widths), "%"),
            Figure(f"{title}: replicates for the truth, of which calm", len(self.calm)),
            Figure(f"{title}: measurements that were throttled", self._throttled),
        ]

    @property
    def _throttled(self) -> int:
        return sum(m.verdict == "throttled" for m in self.measurements)

    def document(self) -> dict[str, Any]:
        """Everything but the samples."""
        shown = [
            {"ratio": m.ratio, "low": m.ratio_low, "high": m.ratio_high, "verdict": m.verdict}
            for m in self.measurements
        ]
        return {"near": self.near, "far": self.far, "truth": self.truth, "measurements": shown}


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

    def take() -> float:
        number = len(found.measurements)
        if number % every == 0 and len(found.truth) < 2 * TRUTH_MEASUREMENTS:
            found.truth.extend(_truth(bench, pair, number))
        found.measurements.append(bench.measure(pair.candidate, pair.reference, settings(number)))
        if (number + 1) % 20 == 0:
            say(f"{number + 1} of {total} measurements")
        return math.log(found.measurements[-1].ratio)

    firsts = [(time.monotonic(), take()) for _ in range(trials // 2)]
    found.near = [abs(take() - take()) for _ in range(trials - trials // 2)]
    for begun, first in firsts:
        time.sleep(max(begun + APART_S - time.monotonic(), 0))
        found.far.append(abs(take() - first))
    while len(found.truth) < 2 * TRUTH_MEASUREMENTS:
        found.truth.extend(_truth(bench, pair, len(found.truth)))
    return found


def _truth(bench: Bench, pair: Pair, number: int) -> list[tuple[float, float]]:
    """Two replicates for the pooled ratio, each with its reference latency."""
    settings = Settings(replicates=2, max_replicates=2, timing_s=0.25, seed=10_000 + number)
    found = bench.measure(pair.candidate, pair.reference, settings)
    return [(replicate.ratio, _reference_ns(replicate)) for replicate in found.replicates]


def _reference_ns(replicate: Replicate) -> float:
    return median(chain.from_iterable(replicate.reference_ns))


def _p95(differences: Sequence[float]) -> float:
    return quantile(sorted(differences), 0.95)
