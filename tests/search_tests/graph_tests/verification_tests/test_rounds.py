"""Rounds: what one draw proves, and what it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from search.graph.exported.deadline import LATE, NEVER
from search.graph.exported.float64_mode import everything_in_float64
from search.graph.tracing import subject_of
from search.graph.trial_log import TrialLog, Verdicts
from search.graph.verification.class_check import check_class
from search.graph.verification.draw import Draw
from search.graph.verification.influence import Influence
from search.graph.verification.rounds import Rounds
from search.graph.verification.subject import Subject
from search.graph.verification.trial_result import Trial, TrialResult
from search.graph.verification.trials import Trials
from tests.search_tests.graph_tests.verification_tests.verifying import FixedTrial, verified
from tests.search_tests.models import Plain, image


@pytest.mark.parametrize("wrong", [False, True])
def test_what_was_proven_is_trusted_if_the_time_is_over_in_the_next_round(wrong: bool) -> None:
    """Unless something had gone wrong in it by then."""
    rounds: list[int] = []

    class LateSecondRound(Trials):
        def numeric(self, subject: Subject, draw: Draw, *, one_first: bool) -> Trial:
            rounds.append(draw.seed)
            if draw.seed == 0:
                return super().numeric(subject, draw, one_first=one_first)
            return FixedTrial(
                lambda names: TrialResult("wrong" if wrong and len(names) > 1 else LATE)
            )

    graph = verified(Plain(), image(), LateSecondRound)
    assert rounds[:2] == [0, 1]
    assert {group.reason for group in graph.groups[:2]} == ({LATE} if wrong else {""})


def four_groups() -> nn.Module:
    """Groups "0", "2", "4" and "6"."""
    widths = (3, 4, 5, 6, 7, 2)
    layers = [nn.Linear(ins, outs) for ins, outs in zip(widths, widths[1:], strict=False)]
    activated = [each for layer in layers for each in (layer, nn.Tanh())]
    return nn.Sequential(*activated[:-1])


class NotedInfluence(Influence):
    """Notes what is measured, and on which weights."""

    def __init__(self, subject: Subject, log: TrialLog, notes: list[object]) -> None:
        super().__init__(subject, log)
        self._notes = notes

    def beside(self, names: Sequence[str], seed: int, scale: float) -> dict[str, float]:
        self._notes.append((list(names), seed, scale))
        return super().beside(names, seed, scale)


class SecondHalfRescales(Trials):
    """All groups fail together. The first two pass on the weights as they were drawn first; the
    trial of the others makes them smaller."""

    def __init__(self, log: TrialLog) -> None:
        super().__init__(log)
        self.measured: list[object] = []

    def numeric(self, subject: Subject, draw: Draw, *, one_first: bool) -> Trial:
        def find(names: Sequence[str]) -> TrialResult:
            if names == ["4", "6"]:
                draw.rescale(subject.graph.model)
            return TrialResult("clash" if len(names) > 2 else None, scale=draw.scale)

        return FixedTrial(find)

    def influence(self, subject: Subject) -> Influence:
        return NotedInfluence(subject, self.log, self.measured)


def proven_by_rounds(subject: Subject, trials: Trials) -> frozenset[str]:
    found = Rounds(subject, trials, {}).run()
    assert [draw.scale for draw in found.influences] == [1.0, 0.7]
    return found.proven


def shown_by_class(subject: Subject, trials: Trials) -> frozenset[str]:
    return check_class(subject, trials, [], trusted=False).shown & {"0", "2"}


@pytest.mark.parametrize("run", [proven_by_rounds, shown_by_class])
def test_influence_is_measured_on_the_weights_on_which_the_groups_passed(
    run: Callable[[Subject, Trials], frozenset[str]],
) -> None:
    with everything_in_float64():
        subject = subject_of(four_groups(), (torch.randn(2, 3),))
        trials = SecondHalfRescales(TrialLog(Verdicts(), NEVER))
        found = run(subject, trials)
    assert trials.measured == [(["0", "2"], 0, 1.0)]
    assert found == {"0", "2"}
