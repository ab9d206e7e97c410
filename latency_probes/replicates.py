"""Decides how many replicates a measurement takes, which to repeat, and what they say together.

Replicates come from a callable that is passed in, so that this runs on fake ones with a fake
clock. Knows no processes and no files.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from statistics import median

from latency_probes import intervals
from latency_probes.messages import MeasureError, MessageError, Settings
from latency_probes.samples import (
    PROTOCOL,
    Conditions,
    Measurement,
    Replicate,
    Verdict,
    summary,
)
from latency_probes.spawn import Timed
from latency_probes.timing import SLOW_SENTINEL, Calm

# The n-th replicate (0, 1, ...) within so many seconds, and how the device is when it is calm.
Replicator = Callable[[int, float, Calm], Timed | MeasureError]

_SLOW_REFERENCE = 1.07
_COOL_DOWN_S = 0.5
_SPELL = 6  # disturbed replicates in a row
_LEAST_CALM = 3  # replicates
_REMEMBERED = 512  # replicates of a reference: longer than a spell of noise
_NOISY_IQR = 0.10
_UNSTABLE_IQR = 0.25
_GRAVEST_FIRST: tuple[Verdict, ...] = ("unstable", "throttled", "noisy", "ok")


class Sentinel:
    """The usual times of two workloads that never change while a device serves a job.

    The sentinel is a small loop: it tells of a lower frequency, and of another thread on the same
    core. The reference model is in every replicate: it tells of neighbours that take caches or
    memory bandwidth, which a small loop does not feel. The baseline of both is near the fastest of
    the last replicates, because disturbed spells can be longer than the calm between them.

    Attributes:
        spell: how many of the last replicates in a row were disturbed.
    """

    def __init__(self) -> None:
        self._seen: deque[int] = deque(maxlen=_REMEMBERED)
        self._references: dict[str, deque[float]] = {}
        self._expected: dict[str, float] = {}
        self.spell = 0

    @property
    def baseline_ns(self) -> int:
        """What the sentinel usually takes; 0 while that is unknown."""
        return round(_usual(self._seen)) if self._seen else 0

    def note(self, replicate: Replicate, reference: str = "") -> None:
        """Remembers a replicate; `reference` names its reference model and how it was run."""
        self.spell = self.spell + 1 if self.is_disturbed(replicate, reference) else 0
        if min(replicate.sentinel_ns) > 0:
            self._seen.append(min(replicate.sentinel_ns))
        self._references.setdefault(reference, deque(maxlen=_REMEMBERED))
        self._references[reference].append(replicate.median_reference_ns)

    def is_disturbed(self, replicate: Replicate, reference: str = "") -> bool:
        """Whether either workload took clearly longer than it usually does."""
        calm_ns = self._calm_ns(reference)
        is_slow = 0 < calm_ns < replicate.median_reference_ns
        return is_slow or _is_hot(replicate, self.baseline_ns)

    def calm(self, reference: str = "", *, patient: bool = True) -> Calm:
        """How the device is when nothing disturbs it."""
        return Calm(self._calm_ns(reference), self.baseline_ns, patient)

    def _calm_ns(self, reference: str) -> int:
        """What a call of the reference model takes at most; 0 while that is unknown."""
        seen = self._references.get(reference, ())
        usual = _usual(seen) if len(seen) >= 3 else math.inf
        usual = min(usual, self._expected.get(reference, math.inf))
        return 0 if usual == math.inf else round(_SLOW_REFERENCE * usual)

    def expect(self, usual_ns: float, reference: str = "") -> None:
        """Takes the usual time of a reference from who knows it before it is seen here."""
        self._expected[reference] = usual_ns


def _usual(seen: Collection[float]) -> float:
    return sorted(seen)[len(seen) // 8]


def _is_hot(replicate: Replicate, baseline_ns: int) -> bool:
    return 0 < SLOW_SENTINEL * baseline_ns < max(replicate.sentinel_ns)


def take(
    run: Replicator,
    settings: Settings,
    conditions: Conditions,
    sentinel: Sentinel,
    *,
    reference: str = "",
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Measurement | MeasureError:
    """Run replicates until the interval is small enough, or the most are run, or time is spent.

    To be strict, a replicate during which the sentinel was over 25 % or the reference model over
    7 % slow is repeated after a pause, as often as there are replicates. What is slow is set aside
    where at least 3 others are left, else the verdict says so. To screen, none is repeated, and
    none waits for the calm once a spell has gone on for a while: who asks again later gets more
    for the time. The first error ends the measurement and is its outcome. With a threshold it
    also ends once the calm replicates tell on which side of it the ratio is; the interval is the
    usual one.
    """
    deadline = clock() + settings.time_limit_s
    if settings.usual_ms is not None:
        sentinel.expect(settings.usual_ms * 1e6, reference)
    is_strict = settings.kind == "strict"
    most_repeats = settings.replicates if is_strict else 0
    every: list[Timed] = []
    kept: list[Timed] = []
    calm: list[Timed] = []
    side: intervals.Side | None = None
    while side is None and not _enough(kept, calm, settings):
        left = deadline - clock()
        if left <= 0:
            break
        is_patient = is_strict or sentinel.spell < _SPELL
        timed = run(len(every), left, sentinel.calm(reference, patient=is_patient))
        if isinstance(timed, MeasureError):
            if timed.kind == "timeout" and len(kept) >= 2:
                break
            return timed
        every.append(timed)
        is_disturbed = sentinel.is_disturbed(timed.replicate, reference)
        sentinel.note(timed.replicate, reference)
        if is_disturbed and len(every) - len(kept) <= most_repeats:
            sleep(_COOL_DOWN_S)
            continue
        kept.append(timed)
        # Judged anew each time: before the first few nothing tells how fast the reference can be.
        calm = [each for each in kept if not sentinel.is_disturbed(each.replicate, reference)]
        side = _decided(kept, calm, settings)
    if len(kept) < 2:
        message = f"{len(kept)} replicates fit into {settings.time_limit_s:.3g} s; 2 are needed"
        return MeasureError(kind="timeout", message=message)
    believed = _believed(kept, calm)
    replicates = [t.replicate for t in believed]
    noted = conditions.model_copy(
        update={
            "sentinel_baseline_ns": sentinel.baseline_ns,
            "repeated": len(every) - len(believed),
            "disturbed_ratio": _disturbed_ratio([t.replicate for t in every], replicates),
        }
    )
    slow = len(believed) - len(calm)
    version = kept[0].runtime_version
    return conclude(replicates, settings, noted, version, slow=slow, side=side)


def _believed(kept: Sequence[Timed], calm: Sequence[Timed]) -> Sequence[Timed]:
    """The calm replicates if they are enough for an interval. Which ones are calm is told by the
    reference and the sentinel, never by the candidate."""
    return calm if len(calm) >= _LEAST_CALM else kept


def _disturbed_ratio(every: Sequence[Replicate], believed: Sequence[Replicate]) -> float | None:
    """What the ratio is when the device is disturbed, by what was not believed."""
    ids = set(map(id, believed))
    ratios = [r.ratio for r in every if id(r) not in ids]
    ratios += [r.retaken_ratio for r in every if r.retaken_ratio]
    return median(ratios) if ratios else None


def _enough(kept: Sequence[Timed], calm: Sequence[Timed], settings: Settings) -> bool:
    if len(kept) < settings.replicates:
        return False
    found = intervals.ratio_interval([t.replicate.ratio for t in _believed(kept, calm)])
    return found.half_width <= settings.half_width or len(kept) >= settings.max_replicates


def _decided(
    kept: Sequence[Timed], calm: Sequence[Timed], settings: Settings
) -> intervals.Side | None:
    """The side of the threshold, at a look: after each replicate from the 3rd to the last but one
    of the least number."""
    return _side([t.replicate.ratio for t in calm], len(kept), settings)


def _side(calm: Sequence[float], kept: int, settings: Settings) -> intervals.Side | None:
    looks = settings.replicates - _LEAST_CALM
    is_look = _LEAST_CALM <= kept < settings.replicates and len(calm) >= _LEAST_CALM
    if settings.threshold is None or not is_look:
        return None
    return intervals.decided(calm, settings.threshold, looks)


def conclude(
    replicates: Sequence[Replicate],
    settings: Settings,
    conditions: Conditions,
    version: str,
    *,
    slow: int = 0,
    side: intervals.Side | None = None,
) -> Measurement:
    """What the replicates say together, `slow` of which were disturbed; `side` is that of the
    threshold where they ended early."""
    found = intervals.ratio_interval([r.ratio for r in replicates])
    is_early = side is not None
    verdict, reasons = judge(replicates, found, settings, conditions, slow=slow, is_early=is_early)
    if is_early:
        reasons = (*reasons, f"stopped early: clearly {side} {settings.threshold:.4g}")
    return Measurement(
        **summary(replicates),
        kind=settings.kind,
        replicates=tuple(replicates),
        reference_cold_ms=median(r.reference_cold_ns for r in replicates) / 1e6,
        load_ms=median(r.candidate_load_ms for r in replicates),
        reference_load_ms=median(r.reference_load_ms for r in replicates),
        peak_rss_mb=median(r.peak_rss_mb for r in replicates),
        verdict=verdict,
        reasons=reasons,
        conditions=conditions,
        runtime_version=version,
    )


def judge(
    replicates: Sequence[Replicate],
    found: intervals.Interval,
    settings: Settings,
    conditions: Conditions,
    *,
    slow: int = 0,
    is_early: bool = False,
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict with every reason; the gravest reason decides.

    Args:
        slow: replicates that were disturbed. All may agree and still be off: what costs every
            model the same time moves their ratio.
        is_early: the question was decided before the interval was narrow, which is no fault then.
    """
    problems: list[tuple[Verdict, str]] = []
    iqr = max(_typical_iqr(r.candidate_ns for r in replicates),
              _typical_iqr(r.reference_ns for r in replicates))  # fmt: skip
    if iqr >= _NOISY_IQR:
        grave: Verdict = "unstable" if iqr >= _UNSTABLE_IQR else "noisy"
        problems.append((grave, f"the interquartile range is {iqr:.0%} of the median"))
    cold = sum(not r.warm for r in replicates)
    if 2 * cold > len(replicates):
        problems.append(("unstable", f"{cold} of {len(replicates)} replicates did not settle"))
    baseline = conditions.sentinel_baseline_ns
    hot = sum(_is_hot(r, baseline) for r in replicates)
    if hot:
        problems.append(("throttled", f"the sentinel was slow in {hot} replicates"))
    if slow > max(hot, len(replicates) // 3):
        problems.append(("throttled", f"the reference model was slow in {slow} replicates"))
    if found.half_width > settings.half_width and not is_early:
        problems.append(("noisy", f"the interval is +-{found.half_width:.1%} wide"))
    count = len(replicates) + conditions.repeated
    if count < settings.replicates and not is_early:
        limit_s = settings.time_limit_s
        reason = f"only {count} of {settings.replicates} replicates fit into {limit_s:.3g} s"
        problems.append(("noisy", reason))
    found_verdicts = {verdict for verdict, _ in problems}
    verdict: Verdict = next((v for v in _GRAVEST_FIRST if v in found_verdicts), "ok")
    return verdict, tuple(reason for _, reason in problems)


def check(said: Measurement, settings: Settings) -> None:
    """Compare a device's measurement with what it was asked for, and its verdict with its samples.
    A graver one than they show is believed: the device knows how its reference usually is.

    Raises:
        MessageError: it was measured otherwise, or its verdict is too good.
    """
    if said.protocol != PROTOCOL:
        raise MessageError(
            f"a measurement must be of protocol {PROTOCOL}, but got {said.protocol}: agent and "
            "server must be of one version"
        )
    if said.kind != settings.kind:
        raise MessageError(f"a {settings.kind} measurement was asked for, but got {said.kind}")
    ratios = [replicate.ratio for replicate in said.replicates]
    found = intervals.Interval(said.ratio, said.ratio_low, said.ratio_high)
    side = _side(ratios, len(ratios), settings)
    verdict, reasons = judge(
        said.replicates, found, settings, said.conditions, is_early=side is not None
    )
    if _GRAVEST_FIRST.index(said.verdict) > _GRAVEST_FIRST.index(verdict):
        raise MessageError(f"the verdict must be {verdict} ({reasons[0]}), but got {said.verdict}")


def _typical_iqr(replicates: Iterable[intervals.Rounds]) -> float:
    """The median over replicates of IQR / median."""
    spreads = [intervals.spread(list(chain.from_iterable(r))) for r in replicates]
    return median(s.iqr_ns / s.median_ns for s in spreads)
