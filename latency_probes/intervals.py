"""Statistics of timings: medians, spreads, the paired ratio and its interval. Pure numbers, no
clock, no I/O.

| symbol | meaning | shape |
|---|---|---|
| c, r | samples of candidate and reference, ns per call | rounds x calls |
| q | ratio of one replicate: median over rounds of min(c_i) / min(r_i) | scalar |
| n | replicates (processes), >= 2 | scalar |
| ratio | exp(mean(log q)) | scalar |
| ratio_low, ratio_high | ratio * exp(-+ t * sd(log q) / sqrt(n)), t at n - 1 degrees | scalar |

The layout of a process moves latency more than samples within it do, so that replicates, never
samples, are the unit of the interval; a bootstrap over 3 replicates would cover 76 % where this
covers 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median, stdev
from typing import Literal

Rounds = Sequence[Sequence[int]]

# Student's t, two-sided 95 %, for 1 to 31 degrees of freedom.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201,
    2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074,
    2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042, 2.040,
)  # fmt: skip
# The binomial rule: of so many samples at least two lie beyond the percentile with 99 %
# confidence, 1 - p^n - n (1 - p) p^(n-1) >= 0.99.
_P90_SAMPLES = 64
_P99_SAMPLES = 662
_OUTLIER_IQRS = 3.0


# What all looks of a sequential test together may err.
_ALPHA = 0.05

Side = Literal["above", "below"]


@dataclass(frozen=True)
class Interval:
    """A ratio with its 95 % confidence interval."""

    ratio: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval's width, relative to the ratio."""
        return (self.high - self.low) / (2 * self.ratio)


@dataclass(frozen=True)
class Spread:
    """How samples (ns) lie: outliers are counted, never dropped; `p90_ns` and `p99_ns` are None
    where the samples are too few by the binomial rule."""

    count: int
    median_ns: float
    iqr_ns: float
    mad_ns: float
    min_ns: int
    p90_ns: float | None
    outliers: int
    p99_ns: float | None


def student_t95(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t.

    Raises:
        ValueError: `degrees` is not between 1 and 31.
    """
    if not 1 <= degrees <= len(_T95):
        raise ValueError(f"degrees must be between 1 and {len(_T95)}, but got {degrees}")
    return _T95[degrees - 1]


@lru_cache(maxsize=64)
def student_t(degrees: int, alpha: float) -> float:
    """The two-sided 1 - alpha quantile of Student's t, by bisection of its exact distribution."""
    low, high = 0.0, 1.0
    while _within(high, degrees) < 1 - alpha:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 1 - alpha else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """P(|T| <= t) for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    is_odd = degrees % 2
    term = math.cos(angle) if is_odd else 1.0
    total = 0.0
    for k in range(1, degrees // 2 + 1):
        total += term
        term *= math.cos(angle) ** 2 * (2 * k if is_odd else 2 * k - 1) / (2 * k + is_odd)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if is_odd else total


def decided(ratios: Sequence[float], threshold: float, looks: int) -> Side | None:
    """On which side of the threshold the ratio is beyond doubt; None: it is open.

    Who looks after every replicate and stops at the first interval that excludes the threshold
    errs more often than the interval says. So the 5 % are shared evenly among the looks
    (Bonferroni): each one takes the interval at the level 1 - 0.05 / looks.

    Args:
        looks: How many there are at most, this one included.
    """
    logs = [math.log(q) for q in ratios]
    reach = student_t(len(logs) - 1, _ALPHA / looks) * stdev(logs) / math.sqrt(len(logs))
    distance = fmean(logs) - math.log(threshold)
    if abs(distance) <= reach:
        return None
    return "above" if distance > 0 else "below"


def paired_ratio(candidate_ns: Rounds, reference_ns: Rounds) -> float:
    """One replicate's ratio: rounds are paired, so that a drift common to both cancels; the
    fastest calls of a round are compared, because whatever disturbs a call makes it slower.

    Raises:
        ValueError: the two do not have the same positive number of rounds.
    """
    if not candidate_ns or len(candidate_ns) != len(reference_ns):
        raise ValueError(
            "candidate and reference must have the same number of rounds, at least 1, "
            f"but got {len(candidate_ns)} and {len(reference_ns)}"
        )
    pairs = zip(candidate_ns, reference_ns, strict=True)
    return median(min(c) / min(r) for c, r in pairs)


def ratio_interval(ratios: Sequence[float]) -> Interval:
    """The interval over replicates: Student's t on the logarithms of their ratios.

    Raises:
        ValueError: fewer than two ratios, or one that is not positive.
    """
    if len(ratios) < 2 or min(ratios) <= 0:
        raise ValueError(f"ratios must be at least 2 and all positive, but got {list(ratios)}")
    logs = [math.log(q) for q in ratios]
    center = fmean(logs)
    reach = student_t95(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(center), math.exp(center - reach), math.exp(center + reach))


def spread(samples: Sequence[int]) -> Spread:
    """Summarise samples (at least one)."""
    ordered = sorted(samples)
    middle = median(ordered)
    low, high = quantile(ordered, 0.25), quantile(ordered, 0.75)
    reach = _OUTLIER_IQRS * (high - low)
    return Spread(
        count=len(ordered),
        median_ns=middle,
        iqr_ns=high - low,
        mad_ns=median(abs(x - middle) for x in ordered),
        min_ns=ordered[0],
        p90_ns=quantile(ordered, 0.9) if len(ordered) >= _P90_SAMPLES else None,
        outliers=sum(not low - reach <= x <= high + reach for x in ordered),
        p99_ns=quantile(ordered, 0.99) if len(ordered) >= _P99_SAMPLES else None,
    )


def quantile(ordered: Sequence[float], p: float) -> float:
    """The p-quantile of ascending values, interpolated between neighbours."""
    place = p * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
