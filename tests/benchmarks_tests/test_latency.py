"""The benchmark of measuring: its figures and its counting, on measurements made up here."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from benchmarks.latency import pools
from benchmarks.latency.figures import Figure, table
from benchmarks.latency.repeatability import Trial, Trials
from latency_probes.messages import Settings
from latency_probes.replicates import conclude
from latency_probes.samples import Conditions, Measurement, Replicate


def measured(*ratios: float) -> Measurement:
    """A measurement whose replicates have these ratios."""
    replicates = [
        Replicate(
            candidate_ns=((round(1_000_000 * ratio),),),
            reference_ns=((1_000_000,),),
            candidate_cold_ns=1,
            reference_cold_ns=1,
        )
        for ratio in ratios
    ]
    return conclude(replicates, Settings(), Conditions(), "1")


def test_coverage_is_the_share_of_intervals_that_hold_the_pooled_ratio() -> None:
    holding, missing = measured(0.49, 0.5, 0.51), measured(0.6, 0.6001, 0.6002)
    truth = [(0.4, 100.0), (0.625, 106.0), (0.9, 120.0)]  # the last one disturbed
    trials = Trials([], [holding, missing, holding, holding], truth)
    assert trials.calm == [0.4, 0.625]
    assert trials.true == pytest.approx(0.5)
    assert trials.coverage == 0.75


def trial(difference: float, *, far: bool = False, throttled: bool = False) -> Trial:
    """Two measurements whose ratios differ by so much, on a logarithmic scale."""
    first, second = (measured(*[0.5 * math.exp(d)] * 3) for d in (0.0, difference))
    verdict = "throttled" if throttled else "ok"
    return Trial(first, second.model_copy(update={"verdict": verdict}), far=far)


def test_figures_say_how_many_trials_stay_within_the_limit() -> None:
    made = [trial(0.001) for _ in range(9)]
    made += [trial(0.005, far=True), trial(-0.02, far=True, throttled=True)]
    trials = Trials(made, [measured(0.5, 0.5, 0.5)], [(0.5, 100.0)])
    figures = {figure.name: figure for figure in trials.figures("idle", 0.01)}
    within = figures["idle: A/A trials within 1%"]
    assert within.value == pytest.approx(100 * 10 / 11)
    assert within.is_met is False
    assert figures["idle: A/A difference, median"].value == pytest.approx(0.1, rel=1e-2)
    assert figures["idle: the same, a minute apart"].value == pytest.approx(1.925, rel=1e-2)
    assert figures["idle: trials of which none was throttled"].value == 10
    assert figures["idle: of these within 1%"].value == 100
    assert figures["idle: coverage of 95 % intervals"].is_met is False  # above 98


@pytest.mark.parametrize(
    ("value", "low", "high", "met"),
    [(1.0, None, None, None), (1.0, 1.0, None, True), (0.9, 1.0, None, False),
     (0.9, 0.1, 0.9, True), (math.inf, None, 1.0, False)],
)  # fmt: skip
def test_figure_knows_whether_it_is_as_asked(
    value: float, low: float | None, high: float | None, met: bool | None
) -> None:
    assert Figure("x", value, low=low, high=high).is_met is met


def test_table_marks_what_is_missed() -> None:
    shown = table([Figure("delay", 30.0, "ms", high=20.0), Figure("size", 2.0, "kB")])
    first, second = shown.splitlines()
    assert first.split() == ["delay", "30", "ms", "≤", "20", "MISSED"]
    assert second.split() == ["size", "2", "kB"]


def test_neighbour_ends_once_its_parent_is_gone() -> None:
    command = [sys.executable, "-m", "benchmarks.latency.neighbour", "0", "30"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=20, check=True)
    assert done.returncode == 0


def test_scaling_of_a_pool_is_told_against_what_its_agents_alone_would_take() -> None:
    found = {each.name: each.value for each in pools.figures({1: 20.0, 4: 10.0}, 40, 0.5)}
    assert found == {
        "1 replay agents: candidates an hour": 7200.0,
        "1 replay agents: share of the possible": 100.0,
        "4 replay agents: candidates an hour": 14400.0,
        "4 replay agents: share of the possible": 50.0,
    }
