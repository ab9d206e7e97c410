"""Checks which groups the user's own class computes rightly without, where some need the exported
graph. It freezes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from search.graph.verification.bisection import Bisection, family
from search.graph.verification.rounds import (
    ROUNDS,
    SMALL,
    PassedDraw,
    free_names,
    saturates,
    shown,
)
from search.graph.verification.subject import Subject
from search.graph.verification.trials import Trials

# How many trials are run before what is undecided is left to the graph, which costs nothing but
# the class. NFNet-F0, whose class can lose nothing, took 54 instead of 87 s of processor time.
BRIEF = 10


@dataclass(frozen=True)
class ClassCheck:
    """What was found of the user's class.

    Attributes:
        reasons: name of a group -> why the class cannot be used without its units.
        shown: names of the groups without which it was shown to compute what the graph does.
    """

    reasons: Mapping[str, str]
    shown: frozenset[str]


def check_class(
    subject: Subject, trials: Trials, draws: Collection[PassedDraw], *, trusted: bool
) -> ClassCheck:
    """Try the class by families of groups and in few trials.

    It is tried on parameters on which what is left of the groups matters: where a softmax is
    decided, say, a class that scales it by the number of its units computes the same as one that
    does not.

    Args:
        subject: its graph has a program.
        trials: makes the trials.
        draws: on which groups passed before, in any form; the same parameters are drawn.
        trusted: the program has been verified, so that it can be compared with; it takes less
            time than the reference.
    """
    bisection = Bisection(family, most_trials=BRIEF)
    names, seen, reasons = free_names(subject.graph), set[str](), dict[str, str]()
    influence = trials.influence(subject)
    drawn = dict.fromkeys((draw.seed, draw.scale) for draw in draws)
    for seed, scale in drawn or dict.fromkeys((seed, 1.0) for seed in range(ROUNDS)):
        names = [name for name in names if seed < ROUNDS or name not in seen]
        if not names:
            break
        draw = trials.draw(seed, scale)
        if trusted:
            trial = trials.module_vs_graph(subject, draw)
        else:
            trial = trials.numeric(subject, draw, one_first=True)
        found = bisection.bisect(names, trial.result)
        names = found.passed
        reasons |= found.reasons
        if found.result is not None and not seen.issuperset(names):
            measured = influence.beside(names, seed, found.result.scale)
            seen |= shown(measured, found.result.error)
    if trusted and names and saturates(subject):
        trial = trials.module_vs_graph(subject, trials.draw(0, SMALL))
        reasons |= bisection.bisect(names, trial.result).reasons
    return ClassCheck(reasons, frozenset(seen - reasons.keys()))
