"""Trusts a group only after cutting it: all groups at once, halving the set where that fails.

| symbol | meaning |
|---|---|
| UNLIKE | a dense model that is off by more than this is not what was exported |
| ROUNDS | how often parameters and plan are drawn: for one example, then for a batch |
| EXTRA_ROUNDS | more draws, of ever smaller weights, for the groups not yet proven |
| BRIEF | most further trials of the user's class; what is undecided then is left to the graph |
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from search.graph.deadline import LATE
from search.graph.exporting import Exported
from search.graph.influence import Influence
from search.graph.program import Program
from search.graph.propagation import Propagation
from search.graph.pruning_graph import PruningGraph
from search.graph.trials import CONTROL, EXACT, FormTrial, NumberTrial, ShapeTrial, random_plan
from search.graph.verdicts import Hearing, subject_of

ROUNDS, EXTRA_ROUNDS = 2, 4
UNLIKE = 1e-4
BRIEF = 10

GRAPH_ONLY = "unverified: only an exported graph can lose its units, and this one cannot"
BESIDE = "unverified: the exported graph cannot lose the units of"
IDLE = "unverified: the output does not depend on its units"

RANDOM = (
    "unverified: the model's forward does not repeat what torch.export saw of it; is it random, "
    "or does it keep a state?"
)

Problem: TypeAlias = Callable[[Sequence[str]], str | None]
Families: TypeAlias = list[list[str]]
Draw: TypeAlias = tuple[int, float, frozenset[str]]  # seed and scale of the parameters, groups cut
Influences: TypeAlias = dict[Draw, dict[str, float]]  # draw -> group -> its influence there


def settle(
    graph: PruningGraph, exported: Exported, found: Propagation, hearing: Hearing
) -> PruningGraph:
    """Freeze what cannot be trusted, and tell the form of the rest.

    Blocks come last: they are removed beside everything else that has stood its trial. Takes the
    arguments of `verify`.
    """
    hearing.turn_to(subject_of(graph, exported))
    blocks = {group.name: group for group in graph.removable}
    units = frozen_by(graph, dict.fromkeys(blocks, LATE))
    influences: Influences = {}
    settled = _with_fewest(_settle_units(units, exported, found, hearing, influences), hearing)
    if not blocks:
        return settled
    groups = tuple(blocks.get(group.name, group) for group in settled.groups)
    whole = replace(settled, groups=groups, program=Program(exported, found))
    reasons = verify_blocks(whole, exported, found, hearing, influences)
    return frozen_by(replace(settled, groups=groups), reasons)


def _with_fewest(graph: PruningGraph, hearing: Hearing) -> PruningGraph:
    """Groups that the model does not run without keep two units.

    Whether it runs is a matter of shapes; what the time leaves open keeps one.
    """
    shapes = ShapeTrial(graph, hearing)
    halving = Halving(family)
    if shapes.possible:
        halving.keep(_free(graph), shapes.problem_of_fewest)
    refused = _refused(halving.reasons)
    return replace(
        graph,
        groups=tuple(
            replace(group, fewest=2) if group.name in refused and group.width > 2 else group
            for group in graph.groups
        ),
    )


def verify_blocks(
    graph: PruningGraph,
    exported: Exported,
    found: Propagation,
    hearing: Hearing,
    influences: Influences,
) -> dict[str, str]:
    """Find the blocks that cannot be trusted.

    A model without some block is a `PrunedGraph`, whatever the forms of its other groups; so all
    groups are cut together in that form, and if one fails there, no block is removed. Blocks
    inside of others have a trial of their own: without the outer one it would not show how they
    go.

    Returns:
        Name of a block -> the reason why it must be frozen.
    """
    blocks = [group.name for group in graph.removable]
    as_graph = replace(graph, groups=tuple(replace(each, form="graph") for each in graph.groups))
    units = {group.name for group in graph.prunable}
    reasons: dict[str, str] = {}
    for level in _levels(graph, found):
        resting = dict.fromkeys(set(blocks).difference(level), "")
        trial = frozen_by(as_graph, resting)
        reasons |= verify(trial, exported, found, hearing, influences, trusted=units)
    failed = next((name for name in reasons if name in units), None)
    if hearing.is_over:
        return dict.fromkeys(blocks, LATE)
    if failed is not None:
        return dict.fromkeys(blocks, f"{BESIDE} {failed}")
    return reasons


def _levels(graph: PruningGraph, found: Propagation) -> list[list[str]]:
    """Names of the removable blocks by how many others they lie in, none of them first."""
    levels: dict[int, list[str]] = {}
    for block in found.blocks:
        group = graph.groups[graph.group_of[block.atom]]
        if group.status != "frozen":
            depth = sum(block.add in other.inner for other in found.blocks)
            levels.setdefault(depth, []).append(group.name)
    return [levels[depth] for depth in sorted(levels)]


def _settle_units(
    graph: PruningGraph,
    exported: Exported,
    found: Propagation,
    hearing: Hearing,
    influences: Influences,
) -> PruningGraph:
    """`settle` for all groups but blocks.

    Where the user's own class cannot lose some, because its forward holds constants, all are
    verified on the exported graph first, and then it is asked which ones the class can lose. What
    the time leaves open of that, the graph loses.
    """
    known = {group.name: GRAPH_ONLY for group in graph.prunable if group.form == "graph"}
    halving = Halving(family)
    _of_fitting_shapes(frozen_by(graph, known), halving, hearing)
    known |= halving.reasons
    if not _refused(known):
        rest = frozen_by(graph, known)
        joint = known | verify(rest, exported, found, hearing, influences, jointly=True)
        if not _refused(joint):
            return frozen_by(graph, joint)
    as_graph = replace(
        graph,
        groups=tuple(replace(group, form="graph") for group in graph.groups),
        program=Program(exported, found),
    )
    whole = verify(as_graph, exported, found, hearing, influences)
    rest = replace(frozen_by(graph, known), program=as_graph.program)
    trusted = not _refused(whole)
    lost, shown = _lost_by_graph_only(rest, exported, found, hearing, influences, trusted=trusted)
    own = known | lost
    names = {group.name for group in graph.prunable}
    if own.keys() >= names and _is_unlike(graph, exported, found, hearing):
        return frozen_by(graph, dict.fromkeys(names, RANDOM))
    if len(_refused(whole)) > len(own):
        rest = frozen_by(graph, own)
        by_class = verify(rest, exported, found, hearing, influences)
        if not hearing.is_over:
            return frozen_by(rest, by_class)
    left = names.difference(own, shown) | own.keys()
    groups = tuple(
        replace(group, form="graph" if group.name in left else "module") for group in graph.groups
    )
    return frozen_by(replace(as_graph, groups=groups), whole)


def _lost_by_graph_only(
    graph: PruningGraph,
    exported: Exported,
    found: Propagation,
    hearing: Hearing,
    influences: Influences,
    *,
    trusted: bool,
) -> tuple[dict[str, str], set[str]]:
    """The groups that the user's class cannot lose, and why, and those that it has been shown to
    lose; by families and in few trials, because it costs nothing but the class.

    It is tried on parameters on which what is left of the groups matters: where a softmax is
    decided, say, a class that scales it by the number of its units computes the same as one that
    does not.

    Args:
        graph: it has a program.
        exported: the dense graph.
        found: its labels.
        hearing: of the trials.
        influences: what `verify` has seen of the graph; the same draws are tried.
        trusted: the program has been verified, so that it tells what is right; it takes less time
            than the reference.
    """
    halving = Halving(family)
    halving.most = BRIEF
    names, shown = _free(graph), set[str]()
    influence = Influence(graph, exported, found, hearing)
    trial: FormTrial | NumberTrial
    draws = dict.fromkeys((seed, scale) for seed, scale, _ in influences)
    for seed, scale in draws or [(seed, 1.0) for seed in range(ROUNDS)]:
        names = [name for name in names if seed < ROUNDS or name not in shown]
        if not names:
            break
        if trusted:
            trial = FormTrial(graph, seed, scale, hearing)
        else:
            trial = NumberTrial(graph, exported, found, seed, scale, hearing=hearing, alone=True)
        names = halving.keep(names, trial.problem)
        if not shown.issuperset(names):
            shown |= _shown(influence.beside(names, seed, trial.scale), max(trial.off, EXACT))
    return halving.reasons, shown


def _of_fitting_shapes(graph: PruningGraph, halving: Halving, hearing: Hearing) -> list[str]:
    """The groups that the model runs without, as far as shapes tell."""
    trial = ShapeTrial(graph, hearing)
    return halving.keep(_free(graph), trial.problem) if trial.possible else _free(graph)


def _is_unlike(
    graph: PruningGraph, exported: Exported, found: Propagation, hearing: Hearing
) -> bool:
    """Whether not even the dense model is what was exported: where no trial went well, that may
    be the reason."""
    trial = NumberTrial(graph, exported, found, 0, hearing=hearing, alone=True)
    return trial.dense_error() > UNLIKE


def _refused(reasons: dict[str, str]) -> list[str]:
    """The groups that a trial refused, and not the clock or the control."""
    return [name for name, reason in reasons.items() if reason not in (LATE, IDLE)]


def family(name: str) -> str:
    """Groups whose names differ in an index only belong to blocks that are alike."""
    return re.sub(r"(^|(?<=\.))\d+(?=\.)", "#", name)


def verify(
    graph: PruningGraph,
    exported: Exported,
    found: Propagation,
    hearing: Hearing,
    influences: Influences,
    *,
    jointly: bool = False,
    trusted: Collection[str] = (),
) -> dict[str, str]:
    """Find the groups that cannot be trusted.

    Shapes first, which is cheap; then numbers, on parameters drawn anew in every round, and on
    one example in the first. In a round the pruned copy must equal the reference within
    TOLERANCE, and as a negative control the output must depend on the units of the group, by far
    more than the copy is off in at least one round. A group for which both held in one round is
    trusted though the time is over in the next, as long as nothing went wrong in that one.

    Args:
        graph: the analysis of a float64 copy; the copy's parameters are overwritten.
        exported: the dense graph.
        found: its labels.
        hearing: of the trials.
        influences: those of all groups and blocks on the draws of before, whatever the form; what
            is seen here is added. A group is proven only by a trial on a draw on which what is
            left of it matters.
        jointly: the shapes are known to fit, and once a group is refused all are, because they
            will be verified in another form.
        trusted: groups that have been verified before, in another form; what is left to see shows
            on one example.

    Returns:
        Group name -> the reason why it must be frozen.
    """
    halving = Halving()
    if jointly:
        halving.most = 0
        names = _free(graph)
    else:
        names = _of_fitting_shapes(graph, halving, hearing)
    proven: set[str] = set(trusted)
    influence = Influence(graph, exported, found, hearing)
    blocks = {group.name for group in graph.removable}
    calm, drawn = 1.0, list[Draw]()
    for seed in range(ROUNDS + EXTRA_ROUNDS):
        names = [name for name in names if seed < ROUNDS or name not in proven]
        if not names or hearing.is_over:
            break
        scale = calm * 0.5 ** max(0, seed - ROUNDS + 1)
        is_alone = bool(trusted) or seed != 1
        trial = NumberTrial(graph, exported, found, seed, scale, hearing=hearing, alone=is_alone)
        halving.failed = False
        names = halving.keep(names, trial.problem)
        calm *= trial.scale / scale
        if jointly and _refused(halving.reasons):
            return halving.reasons
        drawn.append((seed, trial.scale, frozenset(names).difference(blocks)))
        if not influences.setdefault(drawn[-1], {}) and not proven.issuperset(names):
            influences[drawn[-1]] = influence.beside(sorted(drawn[-1][2]), seed, trial.scale)
        tried = set(names) - _left_in(graph, names, seed)
        proven |= _shown(influences[drawn[-1]], max(trial.off, EXACT)) & tried
    idle = [name for name in names if name not in proven]
    if idle and drawn:
        seed, scale, _ = drawn[0]
        trial = NumberTrial(graph, exported, found, seed, scale, hearing=hearing)
        proven |= trial.moved_by(idle)
    idle = [name for name in _free(graph) if name not in proven]
    reason = LATE if hearing.is_over else IDLE
    problems = {
        name: told
        for name, told in halving.reasons.items()
        if told != LATE or name not in proven or halving.failed
    }
    return dict.fromkeys(idle, reason) | problems


def _shown(influence: Mapping[str, float], off: float) -> set[str]:
    """The groups that matter by far more than `off`, the error of a trial that went well."""
    return {name for name, value in influence.items() if value >= CONTROL * off}


def _left_in(graph: PruningGraph, names: Sequence[str], seed: int) -> set[str]:
    """The blocks that the plan of a round leaves in: the round proves nothing of them."""
    kept = random_plan(graph.groups, names, seed).kept
    return {group.name for group in graph.removable if kept[group.name]}


def _free(graph: PruningGraph) -> list[str]:
    """Names of all groups and blocks that are not frozen."""
    return [group.name for group in graph.searched(blocks=True)]


class Halving:
    """Finds the groups that stand a trial together, and the reason why each other one does not.

    Attributes:
        most: after so many more trials, what failed together is refused together.
        failed: whether a trial has told a problem.
    """

    def __init__(self, family: Callable[[str], str] = str) -> None:
        self.reasons: dict[str, str] = {}
        self.most = math.inf
        self.failed = False
        self._family = family

    def keep(self, names: list[str], problem: Problem) -> list[str]:
        """The groups of `names` that pass `problem`, jointly."""
        families: dict[str, list[str]] = {}
        for name in names:
            families.setdefault(self._family(name), []).append(name)
        return _names(self._keep(list(families.values()), problem))

    def _keep(self, families: Families, problem: Problem) -> Families:
        told = self._ask(families, problem)
        if told is None:
            return families
        if len(families) == 1 or told == LATE or self.most <= 0:
            self._freeze(families, told)
            return []
        half = len(families) // 2
        first, second = self._keep(families[:half], problem), self._keep(families[half:], problem)
        if not first or not second or len(first + second) == len(families):
            return self._settle(first, second, told if first and second else None)
        return self._settle(first, second, self._ask(first + second, problem))

    def _settle(self, first: Families, second: Families, told: str | None) -> Families:
        if told is None:
            return first + second
        self._freeze(second, told if told == LATE else f"beside {first[0][0]}, {told}")
        return first

    def _ask(self, families: Families, problem: Problem) -> str | None:
        if not families:
            return None
        self.most -= 1
        told = problem(_names(families))
        self.failed |= told not in (None, LATE)
        return told

    def _freeze(self, families: Families, told: str) -> None:
        reason = told if told == LATE else f"unverified: {told}"
        self.reasons |= dict.fromkeys(_names(families), reason)


def _names(families: Families) -> list[str]:
    return [name for names in families for name in names]


def frozen_by(graph: PruningGraph, reasons: dict[str, str]) -> PruningGraph:
    """The graph with the groups of `reasons` frozen."""
    groups = tuple(
        replace(group, status="frozen", reason=reasons[group.name])
        if group.name in reasons
        else group
        for group in graph.groups
    )
    return replace(graph, groups=groups)
