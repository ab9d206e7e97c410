"""The timing of one pair inside the measuring child: cold call, warm-up, then alternating blocks.

Clock, fault counter, sentinel, sleep and random generator are passed in. Knows no runtime: two
callables are all it sees.

| name | rule |
|---|---|
| warm-up | calls until the medians of the last two half-windows agree within 2 %, or time is up |
| round | one block of candidate calls and one of reference calls, in random order |
| block | one call that is not timed (the other model emptied the caches), then its timed calls |
| calls per block | so many that they take 5 ms, between 2 and 20 |
| rounds | until the time is spent, or, on a busy core, 12 rounds or `overtime` times the time |
| sentinel | a small loop, timed before, between and after the blocks of a round |
| disturbed | a round in which the sentinel was over 25 % slow, or the reference was slow |
| retaken | a disturbed round; after the first three nothing is timed until the sentinel is calm |
| patience | what is retaken and waited for takes up to 4 times the time |
| set aside | rounds that are disturbed after that, where at least 3 others are left |
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
_PAUSE_NS = 2_000_000
_TOLD = 3  # disturbed rounds, for what the ratio is in them
SLOW_SENTINEL = 1.25


@dataclass(frozen=True)
class Calm:
    """How a device is when nothing disturbs it.

    Attributes:
        reference_ns: what a call of the reference takes at most; 0 is unknown.
        sentinel_ns: what the sentinel usually takes; 0 is unknown.
        patient: whether to wait for it.
    """

    reference_ns: int = 0
    sentinel_ns: int = 0
    patient: bool = True


UNKNOWN = Calm()


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
    """The samples of one process.

    Attributes:
        candidate_faults, reference_faults: page faults per timed call.
        retaken: the ratio of each round that was disturbed and taken again or set aside.
        sentinel_ns: what the sentinel took at least, and around the rounds that count.
    """

    candidate: Warmth
    reference: Warmth
    candidate_ns: list[list[int]]
    reference_ns: list[list[int]]
    candidate_faults: float
    reference_faults: float
    retaken: list[float]
    sentinel_ns: tuple[int, int]


class _Watch:
    """Looks at the sentinel, and keeps what it took at worst in each round."""

    def __init__(self, look: Clock, usual_ns: int) -> None:
        self._look = look
        self.least_ns = look()
        self._usual_ns = usual_ns or self.least_ns
        self.worst_ns: list[int] = []

    @property
    def calm_ns(self) -> float:
        """What it takes at most when nothing disturbs the core."""
        return SLOW_SENTINEL * min(self._usual_ns, self.least_ns)

    def look(self) -> int:
        found = self._look()
        self.least_ns = min(self.least_ns, found)
        return found

    def typical_ns(self) -> int:
        return round(median(self.worst_ns))


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

    def drop(self, place: int) -> list[list[int]]:
        del self.faults[place]
        return [self.rounds.pop(place)]

    def faults_per_call(self) -> float:
        return sum(self.faults) / (self.calls * len(self.rounds))


class _Pair:
    """Two models while they are timed against each other, round by round."""

    def __init__(self, one: _Side, other: _Side, watch: _Watch, slow_ns: int) -> None:
        self.one, self.other, self.watch = one, other, watch
        self.retaken: list[float] = []
        self._slow_ns = slow_ns

    @property
    def rounds(self) -> int:
        return len(self.one.rounds)

    def round(self, clock: Clock, faults: Clock, order: random.Random, before_ns: int) -> None:
        """One round; `before_ns` is what the sentinel took before it."""
        worst_ns = before_ns
        both = (self.one, self.other)
        for side in both if order.random() < 0.5 else reversed(both):
            side.block(clock, faults)
            worst_ns = max(worst_ns, self.watch.look())
        self.watch.worst_ns.append(worst_ns)

    def is_disturbed(self, place: int) -> bool:
        is_slow = 0 < self._slow_ns < median(self.other.rounds[place])
        return is_slow or self.watch.worst_ns[place] > self.watch.calm_ns

    def drop(self, place: int) -> None:
        """Forget a round but its ratio."""
        del self.watch.worst_ns[place]
        self.retaken.append(paired_ratio(self.one.drop(place), self.other.drop(place)))

    def set_aside(self) -> None:
        """Forget the disturbed rounds, where enough others are left."""
        disturbed = list(filter(self.is_disturbed, range(self.rounds)))
        if self.rounds - len(disturbed) >= _LEAST_ROUNDS:
            for place in reversed(disturbed):
                self.drop(place)

    def timing(self) -> PairTiming:
        return PairTiming(
            self.one.warmth,
            self.other.warmth,
            self.one.rounds,
            self.other.rounds,
            self.one.faults_per_call(),
            self.other.faults_per_call(),
            self.retaken,
            (self.watch.least_ns, self.watch.typical_ns()),
        )


def time_pair(
    candidate: Call,
    reference: Call,
    *,
    timing_s: float,
    overtime: float,
    clock: Clock,
    faults: Clock,
    sentinel: Clock,
    order: random.Random,
    calm: Calm = UNKNOWN,
    sleep: Callable[[float], None] = time.sleep,
) -> PairTiming:
    """Time two models against each other for about `timing_s` seconds, at least 3 rounds; for up
    to `overtime` times that while there are few.

    Args:
        sentinel: times the small loop once (ns).
        calm: what tells a disturbed round from others.
    """
    timing_ns = round(timing_s * 1e9)
    watch = _Watch(sentinel, calm.sentinel_ns)
    one = _Side(candidate, warm_up(candidate, timing_ns, clock))
    other = _Side(reference, warm_up(reference, timing_ns, clock))
    pair = _Pair(one, other, watch, calm.reference_ns)
    spent = 0
    patience = _PATIENCE * timing_ns if calm.patient else 0
    while _goes_on(pair.rounds, spent, timing_ns, overtime):
        start = clock()
        before_ns = watch.look()
        if before_ns > watch.calm_ns and patience > 0 and len(pair.retaken) >= _TOLD:
            sleep(_PAUSE_NS / 1e9)
            patience -= clock() - start
            continue
        pair.round(clock, faults, order, before_ns)
        taken = clock() - start
        if patience > 0 and pair.is_disturbed(-1):
            pair.drop(-1)
            sleep(_PAUSE_NS / 1e9)
            patience -= clock() - start
        else:
            spent += taken
    pair.set_aside()
    return pair.timing()


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
