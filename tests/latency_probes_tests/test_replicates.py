"""How many replicates are taken and what they say, on fake replicates and a fake clock."""

from collections.abc import Sequence

import pytest

from latency_probes import intervals
from latency_probes.messages import MeasureError, MessageError, Settings
from latency_probes.replicates import Sentinel, check, take
from latency_probes.samples import Conditions, Measurement, Replicate
from latency_probes.spawn import Timed
from latency_probes.timing import Calm
from tests.latency_probes_tests.measurements import replicate


class FakeDevice:
    """Gives the replicates (or the error) of a script, the last one for ever; each takes a
    second."""

    def __init__(self, *script: Replicate | MeasureError) -> None:
        self.script = script
        self.now_s = 0.0
        self.limits: list[float] = []
        self.pauses: list[float] = []
        self.calm: list[Calm] = []

    @property
    def calm_ns(self) -> list[int]:
        """What each replicate was told of the reference."""
        return [each.reference_ns for each in self.calm]

    def run(self, number: int, limit_s: float, calm: Calm) -> Timed | MeasureError:
        self.now_s += 1
        self.calm.append(calm)
        self.limits.append(limit_s)
        found = self.script[min(number, len(self.script) - 1)]
        if isinstance(found, MeasureError):
            return found
        return Timed(replicate=found, runtime_version="1.0")

    def take(
        self, settings: Settings, sentinel: Sentinel | None = None
    ) -> Measurement | MeasureError:
        return take(
            self.run,
            settings,
            Conditions(),
            sentinel or Sentinel(),
            clock=lambda: self.now_s,
            sleep=self.pauses.append,
        )


def _measured(outcome: Measurement | MeasureError) -> Measurement:
    assert isinstance(outcome, Measurement)
    return outcome


def _failed(outcome: Measurement | MeasureError) -> MeasureError:
    assert isinstance(outcome, MeasureError)
    return outcome


def _with_sentinel(ns: int) -> Replicate:
    return replicate().model_copy(update={"sentinel_ns": (ns, ns)})


def test_agreeing_replicates_end_a_measurement_early() -> None:
    device = FakeDevice(replicate(600), replicate(601), replicate(599))
    found = _measured(device.take(Settings()))
    assert len(found.replicates) == 3
    assert found.ratio == pytest.approx(0.6, rel=1e-3)
    assert found.ratio_low < 0.6 < found.ratio_high
    assert (found.verdict, found.reasons) == ("ok", ())
    assert (found.latency_ms, found.reference_ms, found.cold_ms) == (6e-4, 1e-3, 12e-4)


def test_disagreeing_replicates_take_the_most_and_are_noisy() -> None:
    device = FakeDevice(*(replicate(n) for n in (500, 600, 700, 550, 650)))
    found = _measured(device.take(Settings()))
    assert len(found.replicates) == 5
    assert found.verdict == "noisy"
    assert "the interval is" in found.reasons[0]


def test_strict_takes_at_least_six() -> None:
    assert len(_measured(FakeDevice(replicate()).take(Settings.strict())).replicates) == 6


def _agreeing(*candidates: int) -> FakeDevice:
    return FakeDevice(*(replicate(each, 100_000) for each in candidates))


@pytest.mark.parametrize(
    ("threshold", "reason"),
    [(0.65, "stopped early: clearly below 0.65"), (0.55, "stopped early: clearly above 0.55")],
)
def test_a_clear_case_ends_after_three_replicates(threshold: float, reason: str) -> None:
    device = _agreeing(59_900, 60_000, 60_100)
    found = _measured(device.take(Settings.strict(threshold=threshold)))
    assert (len(found.replicates), found.verdict, found.reasons) == (3, "ok", (reason,))
    plain = intervals.ratio_interval([each.ratio for each in found.replicates])
    assert (found.ratio_low, found.ratio_high) == (plain.low, plain.high)


def test_a_case_that_clears_up_ends_then() -> None:
    device = _agreeing(60_000, 62_000, 61_000, 61_000, 61_000, 61_000)
    found = _measured(device.take(Settings.strict(threshold=0.58)))
    assert len(found.replicates) == 4
    assert found.reasons == ("stopped early: clearly above 0.58",)


def test_a_case_that_stays_open_takes_them_all() -> None:
    device = _agreeing(59_900, 60_000, 60_100, 59_900, 60_000, 60_100)
    found = _measured(device.take(Settings.strict(threshold=0.6)))
    assert (len(found.replicates), found.reasons) == (6, ())


def test_an_early_end_hides_no_other_trouble() -> None:
    restless = replicate(600).model_copy(update={"warm": False})
    found = _measured(FakeDevice(restless).take(Settings.strict(threshold=0.9)))
    assert found.verdict == "unstable"
    assert found.reasons[-1] == "stopped early: clearly below 0.9"


def test_disturbed_replicates_decide_nothing() -> None:
    device = FakeDevice(*[_with_sentinel(200)] * 8, _with_sentinel(100))
    found = _measured(device.take(Settings.strict(threshold=0.9), _settled_sentinel(*[100] * 30)))
    assert len(device.limits) == 6 + 2 + 3  # repeated, kept though disturbed, calm
    assert (len(found.replicates), found.conditions.repeated) == (3, 8)


def test_an_error_is_the_outcome() -> None:
    error = MeasureError(kind="crashed", message="SIGSEGV")
    assert FakeDevice(replicate(), replicate(), error).take(Settings()) == error


def test_time_spent_ends_with_what_there_is() -> None:
    device = FakeDevice(replicate())
    found = _measured(device.take(Settings.strict().model_copy(update={"time_limit_s": 4.0})))
    assert len(found.replicates) == 4
    assert device.limits == [4, 3, 2, 1]
    assert (found.verdict, found.reasons) == ("noisy", ("only 4 of 6 replicates fit into 4 s",))


def test_a_replicate_that_overruns_ends_with_what_there_is() -> None:
    late = MeasureError(kind="timeout", message="late")
    device = FakeDevice(replicate(), replicate(), late)
    assert len(_measured(device.take(Settings())).replicates) == 2
    assert FakeDevice(replicate(), late).take(Settings()) == late


def test_less_than_two_replicates_are_a_timeout() -> None:
    found = _failed(FakeDevice(replicate()).take(Settings(time_limit_s=0.5)))
    assert found.kind == "timeout"
    assert found.message == "1 replicates fit into 0.5 s; 2 are needed"


def _settled_sentinel(*seen: int) -> Sentinel:
    sentinel = Sentinel()
    for ns in seen or (100, 100, 100, 100, 100):
        sentinel.note(_with_sentinel(ns))
    return sentinel


def test_a_strict_replicate_on_a_slow_core_is_repeated_after_a_pause() -> None:
    device = FakeDevice(_with_sentinel(200), _with_sentinel(100))
    found = _measured(device.take(Settings.strict(), _settled_sentinel()))
    assert (found.conditions.repeated, found.verdict) == (1, "ok")
    assert found.conditions.sentinel_baseline_ns == 100
    assert device.pauses == [0.5]


def test_a_core_that_stays_slow_gives_the_verdict_throttled() -> None:
    device = FakeDevice(_with_sentinel(200))
    found = _measured(device.take(Settings(), _settled_sentinel(*[100] * 20)))
    assert len(found.replicates) == 3
    assert found.verdict == "throttled"
    assert found.reasons == ("the sentinel was slow in 3 replicates",)
    assert device.pauses == []


def test_a_lasting_change_of_speed_becomes_the_new_baseline() -> None:
    assert _settled_sentinel(*[100] * 5, *[200] * 20).baseline_ns == 100
    assert _settled_sentinel(*[100] * 5, *[200] * 40).baseline_ns == 200


def test_a_sentinel_is_known_from_the_first_sighting() -> None:
    sentinel = Sentinel()
    assert (sentinel.baseline_ns, sentinel.is_disturbed(_with_sentinel(900))) == (0, False)
    sentinel.note(_with_sentinel(100))
    assert sentinel.calm() == Calm(0, 100)
    assert sentinel.is_disturbed(_with_sentinel(126))
    assert not sentinel.is_disturbed(_with_sentinel(124))


@pytest.mark.parametrize(("high", "verdict"), [(1050, "ok"), (1150, "noisy"), (1600, "unstable")])
def test_a_wide_spread_within_processes_is_told(high: int, verdict: str) -> None:
    rounds: Sequence[Sequence[int]] = ((1000, 1000, high, high),) * 4
    wide = replicate(rounds=4).model_copy(update={"candidate_ns": tuple(map(tuple, rounds))})
    found = _measured(FakeDevice(wide).take(Settings()))
    assert found.verdict == verdict
    assert len(found.reasons) == (verdict != "ok")


def test_models_that_do_not_settle_are_unstable() -> None:
    restless = replicate().model_copy(update={"warm": False})
    found = _measured(FakeDevice(restless, restless, replicate()).take(Settings()))
    assert found.verdict == "unstable"
    assert found.reasons == ("2 of 3 replicates did not settle",)


def _with_reference(ns: int) -> Replicate:
    return replicate().model_copy(
        update={"reference_ns": ((ns,),) * len(replicate().candidate_ns)}
    )


def test_replicate_with_a_slow_reference_is_disturbed_even_if_such_spells_are_long() -> None:
    sentinel = Sentinel()
    for ns in (1000, 1010, 1400, 1400, 1400, 1400, 1400, 1400):
        sentinel.note(_with_reference(ns), "dense")
    assert sentinel.is_disturbed(_with_reference(1100), "dense")
    assert not sentinel.is_disturbed(_with_reference(1060), "dense")


def test_a_replicate_is_told_what_is_calm_once_that_is_known() -> None:
    device = FakeDevice(_with_reference(1000))
    device.take(Settings.strict())
    assert device.calm_ns == [0, 0, 0, 1070, 1070, 1070]


def test_screening_does_not_wait_for_the_end_of_a_long_spell() -> None:
    sentinel = Sentinel()
    for ns in (*[1000] * 5, *[1200] * 6):
        sentinel.note(_with_reference(ns))
    device = FakeDevice(_with_reference(1200))
    found = _measured(device.take(Settings(), sentinel))
    assert (len(found.replicates), found.verdict, device.pauses) == (3, "throttled", [])
    assert {each.patient for each in device.calm} == {False}
    strict = FakeDevice(_with_reference(1200))
    strict.take(Settings.strict(), sentinel)
    assert (set(strict.calm_ns), len(strict.pauses)) == ({1070}, 6)
    calm = FakeDevice(_with_reference(1000))
    assert _measured(calm.take(Settings(), sentinel)).verdict == "ok"
    assert [each.patient for each in calm.calm] == [False, True, True]


def test_a_reference_never_seen_is_known_from_who_asks() -> None:
    device = FakeDevice(*[_with_reference(1200)] * 6, _with_reference(1000))
    asked = Settings.strict().model_copy(update={"usual_ms": 1e-3})
    found = _measured(device.take(asked))
    assert set(device.calm_ns) == {1070}
    assert found.conditions.repeated == 6
    assert found.ratio == pytest.approx(_with_reference(1000).ratio)


def test_what_the_ratio_is_while_disturbed_is_told() -> None:
    quiet = _measured(FakeDevice(_with_reference(1000)).take(Settings()))
    assert quiet.conditions.disturbed_ratio is None
    waited = _with_reference(1000).model_copy(update={"retaken": 4, "retaken_ratio": 0.75})
    found = _measured(FakeDevice(waited).take(Settings()))
    assert found.conditions.disturbed_ratio == 0.75
    assert found.ratio == quiet.ratio


def test_a_screening_repeats_nothing_and_looks_for_three_calm_replicates() -> None:
    slow, calm = _with_reference(1200), _with_reference(1000)
    device = FakeDevice(slow, calm, slow, calm, calm)
    found = _measured(device.take(Settings(), _with_usual(1000)))
    assert (len(found.replicates), found.verdict, device.pauses) == (3, "ok", [])
    assert found.conditions.repeated == 2
    assert found.ratio == pytest.approx(calm.ratio)


def _with_usual(ns: int) -> Sentinel:
    sentinel = Sentinel()
    sentinel.expect(ns)
    return sentinel


def test_references_of_other_models_are_not_compared() -> None:
    sentinel = Sentinel()
    for _ in range(5):
        sentinel.note(_with_reference(1000), "dense")
    assert not sentinel.is_disturbed(_with_reference(5000), "another")


def test_replicates_that_agree_on_a_slow_reference_are_throttled() -> None:
    sentinel = Sentinel()
    for _ in range(5):
        sentinel.note(_with_reference(1000))
    device = FakeDevice(_with_reference(1150))
    found = _measured(device.take(Settings.strict(), sentinel))
    assert (found.verdict, len(device.pauses)) == ("throttled", 6)
    assert found.reasons == ("the reference model was slow in 6 replicates",)


def test_disturbed_replicates_are_set_aside_where_enough_calm_ones_are_left() -> None:
    sentinel = Sentinel()
    for _ in range(5):
        sentinel.note(_with_reference(1000))
    slow, calm = _with_reference(1200), _with_reference(1000)
    device = FakeDevice(*[slow] * 8, *[calm] * 4)
    found = _measured(device.take(Settings.strict(), sentinel))
    assert len(found.replicates) == 4
    assert found.conditions.repeated == 8
    assert found.verdict == "ok"
    assert found.ratio == pytest.approx(calm.ratio)
    assert found.conditions.disturbed_ratio == pytest.approx(slow.ratio)


def test_a_measurement_passes_the_check_of_its_own_settings() -> None:
    settings = Settings.strict(threshold=0.65)
    early = _measured(_agreeing(59_900, 60_000, 60_100).take(settings))
    disturbed = early.model_copy(update={"verdict": "throttled"})
    for each in (early, disturbed):
        check(each, settings)


def test_an_early_end_that_was_not_asked_for_or_not_clear_is_refused() -> None:
    early = _measured(_agreeing(59_900, 60_000, 60_100).take(Settings.strict(threshold=0.65)))
    for settings in (Settings.strict(), Settings.strict(threshold=0.6)):
        with pytest.raises(MessageError, match="must be noisy .only 3 of 6 replicates"):
            check(early, settings)


def test_the_first_measurement_of_a_device_notices_a_slow_replicate_by_those_after_it() -> None:
    device = FakeDevice(replicate(830, 1170), *(replicate(n) for n in (600, 601, 599, 600)))
    found = _measured(device.take(Settings()))
    assert [each.median_reference_ns for each in found.replicates] == [1000] * 3
    assert (found.verdict, found.conditions.repeated) == ("ok", 1)
    assert found.conditions.disturbed_ratio == pytest.approx(830 / 1170)
