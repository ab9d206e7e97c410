"""The timing loop on a fake clock: what is timed, in which order, and when it stops."""

import random
from collections.abc import Callable

import pytest

from latency_probes import timing
from latency_probes.messages import Settings

MS = 1_000_000


class FakeTime:
    """A clock that moves only when a model is called, or somebody waits; `sentinel(now)` is what
    the sentinel takes then."""

    def __init__(
        self, settings: Settings | None = None, sentinel: Callable[[int], int] = lambda now: 100
    ) -> None:
        self.settings = settings or Settings.screening()
        self.sentinel = sentinel
        self.now_ns = 0
        self.faults = self.pauses = 0
        self.calls: list[str] = []

    def model(self, name: str, latency: Callable[[int], int], *, faults: int = 0) -> timing.Call:
        """A model whose n-th call takes `latency(n)` ns."""

        def call() -> None:
            self.now_ns += latency(self.calls.count(name))
            self.faults += faults
            self.calls.append(name)

        return call

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        self.pauses += 1

    def time(
        self, candidate: timing.Call, reference: timing.Call, calm: timing.Calm = timing.UNKNOWN
    ) -> timing.PairTiming:
        return timing.time_pair(
            candidate,
            reference,
            timing_s=self.settings.timing_s,
            overtime=self.settings.overtime,
            clock=lambda: self.now_ns,
            faults=lambda: self.faults,
            sentinel=lambda: self.sentinel(self.now_ns),
            order=random.Random(0),
            calm=calm,
            sleep=self.sleep,
        )


@pytest.fixture
def fake() -> FakeTime:
    return FakeTime()


def test_steady_models_give_their_latencies(fake: FakeTime) -> None:
    found = fake.time(fake.model("c", lambda n: MS), fake.model("r", lambda n: 2 * MS))
    assert {x for block in found.candidate_ns for x in block} == {MS}
    assert {x for block in found.reference_ns for x in block} == {2 * MS}
    assert len(found.candidate_ns) == len(found.reference_ns) >= 10


def test_both_sides_get_about_the_same_time(fake: FakeTime) -> None:
    found = fake.time(fake.model("c", lambda n: MS // 4), fake.model("r", lambda n: MS))
    assert len(found.candidate_ns[0]) == 20
    assert len(found.reference_ns[0]) == 5


def test_blocks_are_as_long_to_screen_as_to_be_strict() -> None:
    """The calls of a block are not all alike, so that its length moves the ratio."""
    for settings in (Settings.screening(), Settings.strict()):
        fake = FakeTime(settings)
        found = fake.time(fake.model("c", lambda n: MS // 2), fake.model("r", lambda n: MS))
        assert {len(block) for block in found.candidate_ns} == {10}
        assert {len(block) for block in found.reference_ns} == {5}
        assert len(found.reference_ns) == pytest.approx(settings.timing_s * 1e3 / 11.5, abs=2)


def test_the_order_within_rounds_is_random(fake: FakeTime) -> None:
    found = fake.time(fake.model("c", lambda n: MS), fake.model("r", lambda n: MS))
    block = 1 + len(found.candidate_ns[0])
    timed = fake.calls[-2 * block * len(found.candidate_ns) :]
    orders = {tuple(timed[i : i + 2 * block : block]) for i in range(0, len(timed), 2 * block)}
    assert orders == {("c", "r"), ("r", "c")}


def test_the_cold_call_is_reported_apart(fake: FakeTime) -> None:
    found = fake.time(
        fake.model("c", lambda n: 50 * MS if n == 0 else MS), fake.model("r", lambda n: MS)
    )
    assert found.candidate.cold_ns == 50 * MS
    assert max(x for block in found.candidate_ns for x in block) == MS


def test_warm_up_goes_on_until_the_latency_settles(fake: FakeTime) -> None:
    model = fake.model("c", lambda n: MS + MS * max(0, 40 - n) // 10)
    found = timing.warm_up(model, 10_000 * MS, lambda: fake.now_ns)
    assert found.settled
    assert found.calls > 40
    assert found.latency_ns == pytest.approx(MS, rel=0.05)


def test_warm_up_that_never_settles_ends_with_its_time(fake: FakeTime) -> None:
    model = fake.model("c", lambda n: MS * (1 + n))
    found = timing.warm_up(model, 100 * MS, lambda: fake.now_ns)
    assert not found.settled
    assert fake.now_ns < 200 * MS


def test_slow_models_are_still_timed_in_three_rounds(fake: FakeTime) -> None:
    found = fake.time(fake.model("c", lambda n: 900 * MS), fake.model("r", lambda n: 900 * MS))
    assert [len(block) for block in found.candidate_ns] == [2, 2, 2]


def test_a_busy_core_gets_overtime_for_its_rounds() -> None:
    def disturbed(n: int) -> int:
        return 30 * MS if n > 50 and n % 5 == 0 else MS

    fake = FakeTime(Settings.strict())
    found = fake.time(fake.model("c", disturbed), fake.model("r", disturbed))
    assert len(found.candidate_ns) >= 12
    assert timing._goes_on(11, 479 * MS, 120 * MS, 4.0)
    assert not timing._goes_on(11, 480 * MS, 120 * MS, 4.0)


CALM = timing.Calm(reference_ns=MS * 107 // 100)


def test_rounds_with_a_slow_reference_are_taken_again(fake: FakeTime) -> None:
    def disturbed(n: int) -> int:
        return 2 * MS if 60 * MS < fake.now_ns < 160 * MS else MS

    found = fake.time(fake.model("c", disturbed, faults=1), fake.model("r", disturbed), CALM)
    assert {x for block in found.reference_ns for x in block} == {MS}
    assert len(found.candidate_ns) == len(found.reference_ns) >= 12
    assert len(found.retaken) == fake.pauses >= 3
    assert found.retaken[0] == 1.0
    assert found.candidate_faults == 1


def test_patience_with_a_slow_reference_ends() -> None:
    seen = []
    for patient in (False, True):
        fake = FakeTime()
        one, other = (fake.model(name, lambda n: 2 * MS) for name in "cr")
        always = fake.time(one, other, timing.Calm(reference_ns=MS, patient=patient))
        assert {x for block in always.reference_ns for x in block} == {2 * MS}
        seen.append((fake.now_ns, len(always.reference_ns), len(always.retaken)))
    (plain_ns, plain, none), (patient_ns, kept, retaken) = seen
    assert (plain, none) == (kept, 0)
    assert retaken > 0
    assert 480 * MS <= patient_ns - plain_ns <= 520 * MS


def test_rounds_that_stay_slow_are_set_aside_where_three_calm_ones_are_left() -> None:
    def timed(calm_until_ms: int) -> timing.PairTiming:
        fake = FakeTime()

        def candidate(n: int) -> int:
            return MS if fake.now_ns < calm_until_ms * MS else 2 * MS

        return fake.time(fake.model("c", candidate), fake.model("r", candidate), CALM)

    some, none = timed(80), timed(40)
    assert {x for block in some.reference_ns for x in block} == {MS}
    assert len(some.candidate_ns) == len(some.reference_ns) in range(3, 12)
    assert MS in some.candidate_ns[0]
    assert {x for block in none.reference_ns for x in block} == {2 * MS}
    assert len(some.retaken) > len(none.retaken) > 0


def sharing(start_ms: int, end_ms: int) -> FakeTime:
    """Another thread runs on the same core for a while: the sentinel takes 1.5 times as long."""
    return FakeTime(sentinel=lambda now: 150 if start_ms * MS < now < end_ms * MS else 103)


def beside(fake: FakeTime, name: str, slower_ns: int) -> timing.Call:
    """A model of 1 ms that takes `slower_ns` more meanwhile."""
    return fake.model(name, lambda n: MS + slower_ns * (fake.sentinel(fake.now_ns) > 103))


def test_a_shared_core_is_noticed_though_the_reference_is_hardly_slower() -> None:
    fake = sharing(60, 300)
    pair = beside(fake, "c", MS // 5), beside(fake, "r", MS // 20)
    found = fake.time(*pair, timing.Calm(reference_ns=MS * 107 // 100, sentinel_ns=100))
    assert {x for block in found.candidate_ns for x in block} == {MS}
    assert len(found.candidate_ns) >= 10
    assert len(found.retaken) in (3, 4)  # after these it waits for the sentinel, with no model
    assert found.retaken[1] == pytest.approx(1.2 / 1.05)
    assert fake.pauses >= (300 - 160) / 2
    assert found.sentinel_ns == (103, 103)


def test_the_first_sight_of_a_device_tells_its_own_sentinel_by_the_fastest() -> None:
    fake = sharing(0, 60)
    found = fake.time(beside(fake, "c", MS // 5), beside(fake, "r", MS // 20))
    assert {x for block in found.candidate_ns for x in block} == {MS}
    assert found.sentinel_ns == (103, 103)


def test_a_core_that_stays_shared_is_told() -> None:
    fake = sharing(-1, 60_000)
    known = timing.Calm(sentinel_ns=100)
    found = fake.time(beside(fake, "c", MS // 5), beside(fake, "r", MS // 20), known)
    assert found.sentinel_ns == (150, 150)
    assert len(found.retaken) == 3
    hurried = sharing(-1, 60_000)
    pair = beside(hurried, "c", MS // 5), beside(hurried, "r", MS // 20)
    assert not hurried.time(*pair, timing.Calm(sentinel_ns=100, patient=False)).retaken
    assert hurried.pauses == 0
    assert 480 * MS <= fake.now_ns - hurried.now_ns <= 500 * MS


@pytest.mark.parametrize(
    ("latency_ms", "limit_ms"), [(0.1, 500), (1, 600), (5, 800), (10, 1000), (50, 5000)]
)
def test_screening_of_a_10_ms_model_is_timed_for_a_second_at_most(
    latency_ms: float, limit_ms: float
) -> None:
    settings = Settings.screening()
    spent_ms = 0.0
    for _ in range(settings.replicates):
        fake = FakeTime(settings)
        model = fake.model("c", lambda n: round(latency_ms * MS))
        fake.time(model, fake.model("r", lambda n: round(latency_ms * MS)))
        spent_ms += fake.now_ns / MS
    assert spent_ms <= limit_ms


def test_fast_models_give_no_more_samples_than_a_message_holds(fake: FakeTime) -> None:
    found = fake.time(fake.model("c", lambda n: 100), fake.model("r", lambda n: 100))
    assert len(found.candidate_ns) == 32
    assert len(found.candidate_ns[0]) == 20


def test_the_first_call_of_a_block_is_not_timed(fake: FakeTime) -> None:
    last = [""]

    def model(name: str) -> timing.Call:
        def call() -> None:
            fake.now_ns += MS if last[0] == name else 3 * MS
            last[0] = name

        return call

    found = fake.time(model("c"), model("r"))
    assert {x for block in found.candidate_ns + found.reference_ns for x in block} == {MS}


def test_page_faults_are_counted_per_timed_call(fake: FakeTime) -> None:
    found = fake.time(
        fake.model("c", lambda n: MS, faults=3), fake.model("r", lambda n: MS, faults=0)
    )
    assert (found.candidate_faults, found.reference_faults) == (3, 0)


def test_a_clock_too_coarse_for_the_model_gives_one_nanosecond() -> None:
    found = timing.warm_up(lambda: None, 0, lambda: 0)
    assert (found.cold_ns, found.latency_ns) == (1, 1)
