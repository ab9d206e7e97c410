"""The timing of one pair inside the measuring child: cold call, warm-up, then alternating blocks.

Clock, fault counter, sleep and random generator are passed in. Knows no runtime: two callables are
all it sees.

| name | rule |
|---|---|
| warm-up | calls until the medians of the last two half-windows agree within 2 %, or time is up |
| round | one block of candidate calls and one of reference calls, in random order |
| block | one call that is not timed (the other model emptied the caches), then its timed calls |
| calls per block | so many that they take 5 ms, between 2 and 20 |
| rounds | until the time is spent, or, on a busy core, 12 rounds or `overtime` times the time |
| retaken | after a pause, a round with a slow reference block, for up to 4 times the time |
| set aside | rounds that are slow after that, where at least 3 others are left |
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from latency_probes.intervals import paired_ratio

Call = Callable[[], object]
Clock = Callable[[], int]

_AGREEMENT = 0.02
_HALF_WINDOW_NS = 10_000_000
_BLOCK_NS = 5_000_000
_LEAST_ROUNDS = 3
_WANTED_ROUNDS = 12
_MOST_ROUNDS = 32
_LEAST_CALLS = 2
_MOST_CALLS = 20
_PATIENCE = 4
_PAUSE_NS = 10_000_000


@dataclass(frozen=True)
class Warmth:
    """How a model warmed up: its cold latency, calls made, whether it settled, its latency
    then."""

    cold_ns: int
    calls: int
    settled: bool
    latency_ns: int


@dataclass(frozen=True)
class PairTiming:
    """The samples of one process; faults are page faults per timed call, `retaken` has the ratio
    of each round that was disturbed and taken again or set aside."""

    candidate: Warmth
    reference: Warmth
    candidate_ns: list[list[int]]
    reference_ns: list[list[int]]
    candidate_faults: float
    reference_faults: float
    retaken: list[float]


class _Side:
    """One of the two models while it is being timed."""

    def __init__(self, call: Call, warmth: Warmth) -> None:
        self.call, self.warmth = call, warmth
        fitting = round(_BLOCK_NS / max(warmth.latency_ns, 1))
        self.calls = min(max(fitting, _LEAST_CALLS), _MOST_CALLS)
        self.rounds: list[list[int]] = []
        self.faults: list[int] = []

    def block(self, clock: Clock, faults: Clock) -> None:
        call = self.call
        call()
        samples = []
        before = faults()
        for _ in range(self.calls):
            start = clock()
            call()
            samples.append(max(clock() - start, 1))
        self.faults.append(faults() - before)
        self.rounds.append(samples)

    def drop(self, place: int) -> list[int]:
        del self.faults[place]
        return self.rounds.pop(place)

    def faults_per_call(self) -> float:
        return sum(self.faults) / (self.calls * len(self.rounds))


def time_pair(
    candidate: Call,
    reference: Call,
    *,
    timing_s: float,
    overtime: float,
    clock: Clock,
    faults: Clock,
    order: random.Random,
    calm_ns: int = 0,
    sleep: Callable[[float], None] = time.sleep,
) -> PairTiming:
    """Time two models against each other for about `timing_s` seconds, at least 3 rounds; for up
    to `overtime` times that while there are few.

    Args:
        calm_ns: What a call of the reference takes at most when nothing disturbs it; 0: unknown.
    """
    timing_ns = round(timing_s * 1e9)
    one = _Side(candidate, warm_up(candidate, timing_ns, clock))
    other = _Side(reference, warm_up(reference, timing_ns, clock))
    spent = 0
    retaken: list[float] = []
    patience = _PATIENCE * timing_ns if calm_ns else 0
    while _goes_on(len(one.rounds), spent, timing_ns, overtime):
        start = clock()
        for side in (one, other) if order.random() < 0.5 else (other, one):
            side.block(clock, faults)
        taken = clock() - start
        if patience > 0 and median(other.rounds[-1]) > calm_ns:
            retaken.append(paired_ratio([one.drop(-1)], [other.drop(-1)]))
            patience -= taken + _PAUSE_NS
            sleep(_PAUSE_NS / 1e9)
        else:
            spent += taken
    slow = [i for i, block in enumerate(other.rounds) if calm_ns and median(block) > calm_ns]
    if len(other.rounds) - len(slow) >= _LEAST_ROUNDS:
        retaken += [paired_ratio([one.drop(i)], [other.drop(i)]) for i in reversed(slow)]
    return PairTiming(
        one.warmth,
        other.warmth,
        one.rounds,
        other.rounds,
        one.faults_per_call(),
        other.faults_per_call(),
        retaken,
    )


def _goes_on(rounds: int, spent_ns: int, timing_ns: int, overtime: float) -> bool:
    if rounds < _LEAST_ROUNDS:
        return True
    limit_ns = timing_ns * overtime if rounds < _WANTED_ROUNDS else timing_ns
    return spent_ns < limit_ns and rounds < _MOST_ROUNDS


def warm_up(call: Call, limit_ns: int, clock: Clock) -> Warmth:
    """Call until the latency settles or `limit_ns` is spent (at least 6 calls after the cold
    one)."""
    start = clock()
    call()
    cold_ns = max(clock() - start, 1)
    samples: list[int] = []
    began = clock()
    while True:
        start = clock()
        call()
        samples.append(max(clock() - start, 1))
        half = _half_window(samples)
        settled = len(samples) >= 2 * half and _agree(samples, half)
        if len(samples) >= 6 and (settled or clock() - began >= limit_ns):
            return Warmth(cold_ns, len(samples) + 1, settled, round(median(samples[-half:])))


def _half_window(samples: list[int]) -> int:
    """So many calls that they take about 10 ms, between 3 and 30."""
    return min(max(_HALF_WINDOW_NS // samples[-1], 3), 30)


def _agree(samples: list[int], half: int) -> bool:
    earlier, later = median(samples[-2 * half : -half]), median(samples[-half:])
    return abs(earlier - later) <= _AGREEMENT * earlier
