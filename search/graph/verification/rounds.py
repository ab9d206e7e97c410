"""Trusts a group only after cutting it: all groups at once, in rounds, each on another draw.

It knows one subject, and nothing of the forms that groups may have.

| term | meaning |
|---|---|
| shown | a group matters by far more than the trial is off by in which it was cut |
| proven | shown in a round whose trial it passed |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from search.graph.exported.deadline import LATE
from search.graph.pruning_graph import PruningGraph
from search.graph.verification.bisection import Bisected, Bisection
from search.graph.verification.comparison import CONTROL, EXACT, random_plan
from search.graph.verification.draw import Draw
from search.graph.verification.subject import Subject
from search.graph.verification.trials import Trials

# How often parameters and plan are drawn. Two, because a block that one plan removes the next one
# keeps, and because a form may be wrong for one plan and right for another (`Cut` in the tests).
ROUNDS = 2
# More draws, each of weights half as large, for the groups that are not proven by then. The
# attention of `Decided` in the tests needs all four at the largest of its gains; that they are
# enough for every network is not known.
EXTRA_ROUNDS = 4
# Of the weights, for one more trial where an operator saturates. A class with a wrong scale passed
# in 2 of 27 draws of attention with gains from 100 to 3000 without it, and in none with it.
SMALL = 1 / 16
_SATURATING = re.compile("softmax|attention|sigmoid|tanh")

IDLE = "unverified: the output does not depend on its units"


@dataclass(frozen=True)
class PassedDraw:
    """A draw of the parameters on which groups passed a trial together.

    Attributes:
        seed: of the parameters and of the plan.
        scale: of the weights, as they were when the groups passed.
        cut: names of the groups, without blocks.
    """

    seed: int
    scale: float
    cut: frozenset[str]


Influences: TypeAlias = Mapping[PassedDraw, Mapping[str, float]]


@dataclass(frozen=True)
class Verification:
    """What the rounds found.

    Attributes:
        reasons: name of a group -> the reason why it must be frozen.
        proven: names of the groups that were proven, or were trusted from the beginning.
        influences: the draws on which groups passed, in order -> group -> its influence there;
            empty where it was not needed.
    """

    reasons: Mapping[str, str]
    proven: frozenset[str]
    influences: Influences


class Rounds:
    """Finds the groups of a subject that cannot be trusted.

    Shapes first, which is cheap; then numbers, on parameters drawn anew in every round, and on one
    example in all rounds but the second. In a round the pruned copy must equal the reference
    within TOLERANCE, and as a negative control the output must depend on the units of the group,
    by far more than the copy is off in at least one round. A group for which both held in one
    round is trusted though the time is over in the next, as long as nothing went wrong in that
    one.

    Args:
        subject: its copy is redrawn.
        trials: makes the trials.
        known: what is known of influences; whatever the forms of the groups, they are the same.
        jointly: the shapes are known to fit, and once a group is refused all are, because they
            will be verified in another form.
        trusted: groups that have been verified before, in another form; what is left to see shows
            on one example.
    """

    def __init__(
        self,
        subject: Subject,
        trials: Trials,
        known: Influences,
        *,
        jointly: bool = False,
        trusted: Collection[str] = (),
    ) -> None:
        self._subject, self._trials, self._known = subject, trials, known
        self._jointly, self._one_is_enough = jointly, bool(trusted)
        self._bisection = Bisection(most_trials=0) if jointly else Bisection()
        self._influence = trials.influence(subject)
        self._proven = set(trusted)
        self._reasons: dict[str, str] = {}
        self._influences: dict[PassedDraw, Mapping[str, float]] = {}
        self._rescaling = 1.0
        self._has_failed = False  # in the last round

    def run(self) -> Verification:
        """Run the rounds, until every group is proven or refused, or the time is over."""
        names = free_names(self._subject.graph)
        if not self._jointly:
            names = self._bisect_shapes(names)
        for seed in range(ROUNDS + EXTRA_ROUNDS):
            names = [name for name in names if seed < ROUNDS or name not in self._proven]
            if not names or self._trials.log.is_out_of_time:
                break
            names = self._round(names, seed)
        if not self._trials.log.is_out_of_time:
            self._try_small_weights()
        return self._concluded([name for name in names if name not in self._reasons])

    def _bisect_shapes(self, names: list[str]) -> list[str]:
        found = bisect_by_shapes(self._subject, self._trials, self._bisection, names)
        self._has_failed = found.has_failed
        self._reasons |= found.reasons
        return found.passed

    def _round(self, names: Sequence[str], seed: int) -> list[str]:
        """Run the trials of one round; returns the groups that pass them."""
        scale = self._rescaling * 0.5 ** max(0, seed - ROUNDS + 1)
        draw = self._trials.draw(seed, scale)
        one_first = self._one_is_enough or seed != 1
        trial = self._trials.numeric(self._subject, draw, one_first=one_first)
        found = self._bisection.bisect(names, trial.result)
        self._has_failed = found.has_failed
        self._reasons |= found.reasons
        self._rescaling *= draw.scale / scale
        if self._jointly and refused(found.reasons):
            return []
        self._proven |= self._proven_by(found, draw)
        return found.passed

    def _try_small_weights(self) -> None:
        """One more trial of all that passed, which proves nothing: units may matter because they
        move the winner of a softmax, while what scales it shows on small weights only."""
        names = [name for name in free_names(self._subject.graph) if name not in self._reasons]
        if not names or not saturates(self._subject):
            return
        trial = self._trials.numeric(self._subject, self._trials.draw(0, SMALL), one_first=True)
        found = self._bisection.bisect(names, trial.result)
        self._has_failed |= found.has_failed
        self._reasons |= found.reasons

    def _proven_by(self, found: Bisected, draw: Draw) -> set[str]:
        """The groups that a round proves: on the weights on which they passed, which may be larger
        than those of a later trial of the round."""
        names, graph = found.passed, self._subject.graph
        scale = draw.scale if found.result is None else found.result.scale
        blocks = {group.name for group in graph.removable}
        passed = PassedDraw(draw.seed, scale, frozenset(names).difference(blocks))
        influence = self._known.get(passed, {})
        if not influence and not self._proven.issuperset(names):
            influence = self._influence.beside(sorted(passed.cut), draw.seed, scale)
        self._influences[passed] = influence
        error = 0.0 if found.result is None else found.result.error
        return shown(influence, error) & (set(names) - _left_in(graph, names, draw.seed))

    def _concluded(self, names: Sequence[str]) -> Verification:
        """The verification, in which `names` passed all trials; some of them may not be proven."""
        unproven = [name for name in names if name not in self._proven]
        if unproven and self._influences:
            first = next(iter(self._influences))
            draw = self._trials.draw(first.seed, first.scale)
            self._proven |= self._trials.dense(self._subject, draw).moved_by(unproven)
        free = free_names(self._subject.graph)
        reason = LATE if self._trials.log.is_out_of_time else IDLE
        idle = dict.fromkeys((name for name in free if name not in self._proven), reason)
        problems = {
            name: problem
            for name, problem in self._reasons.items()
            if problem != LATE or name not in self._proven or self._has_failed
        }
        return Verification(idle | problems, frozenset(self._proven), self._influences)


def bisect_by_shapes(
    subject: Subject, trials: Trials, bisection: Bisection, names: list[str]
) -> Bisected:
    """Find the groups that the model runs without, as far as shapes show.

    Args:
        subject: of the trials.
        trials: makes them.
        bisection: splits the groups.
        names: of the groups; all pass where shapes cannot be tried.
    """
    trial = trials.shape(subject)
    if not trial.is_possible:
        return Bisected(names, None, {}, has_failed=False)
    return bisection.bisect(names, trial.result)


def shown(influence: Mapping[str, float], error: float) -> set[str]:
    """The groups that matter by far more than a trial is off by.

    Args:
        influence: of every group, on the draw of the trial.
        error: the relative error of the trial, which passed.
    """
    return {name for name, value in influence.items() if value >= CONTROL * max(error, EXACT)}


def refused(reasons: Mapping[str, str]) -> list[str]:
    """The groups that a trial refused, and not the clock or the control."""
    return [name for name, reason in reasons.items() if reason not in (LATE, IDLE)]


def free_names(graph: PruningGraph) -> list[str]:
    """Names of all groups and blocks that are not frozen."""
    return [group.name for group in graph.searched(blocks=True)]


def saturates(subject: Subject) -> bool:
    """Whether some operator of the network gives nearly the same for all large values."""
    nodes = subject.exported.graph_module.graph.nodes
    return any(_SATURATING.search(str(node.target)) for node in nodes)


def _left_in(graph: PruningGraph, names: Sequence[str], seed: int) -> set[str]:
    """The blocks that the plan of a round leaves in: the round proves nothing of them."""
    kept = random_plan(graph.groups, names, seed).kept
    return {group.name for group in graph.removable if kept[group.name]}
