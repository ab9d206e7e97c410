"""Trusts a group only after cutting it: all groups at once, bisection the set where that fails.

| symbol | meaning |
|---|---|
| UNLIKE | a dense model that is off by more than this is not what was exported |
| ROUNDS | how often parameters and plan are drawn: for one example, then for a batch |
| EXTRA_ROUNDS | more draws, of ever smaller weights, for the groups not yet proven |
| BRIEF | most further trials of the user's class; what is undecided then is left to the graph |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from search.graph.dependency.propagation import Propagation
from search.graph.exported.deadline import LATE
from search.graph.exported.export import Exported
from search.graph.pruned.pruned_graph import Program
from search.graph.pruning_graph import PruningGraph, frozen_by
from search.graph.trial_log import TrialLog
from search.graph.verification.bisection import Bisection, family
from search.graph.verification.comparison import CONTROL, EXACT, random_plan
from search.graph.verification.fingerprint import fingerprint_of
from search.graph.verification.influence import Influence
from search.graph.verification.module_vs_graph_trial import ModuleVsGraphTrial
from search.graph.verification.numeric_trial import NumericTrial
from search.graph.verification.shape_trial import ShapeTrial

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

Draw: TypeAlias = tuple[int, float, frozenset[str]]  # seed and scale of the parameters, groups cut
Influences: TypeAlias = dict[Draw, dict[str, float]]  # draw -> group -> its influence there


def settle(
    graph: PruningGraph, exported: Exported, propagation: Propagation, log: TrialLog
) -> PruningGraph:
    """Freeze what cannot be trusted, and tell the form of the rest.

    Blocks come last: they are removed beside everything else that has stood its trial. Takes the
    arguments of `verify`.
    """
    log.turn_to(fingerprint_of(graph, exported))
    blocks = {group.name: group for group in graph.removable}
    units = frozen_by(graph, dict.fromkeys(blocks, LATE))
    influences: Influences = {}
    settled = _with_fewest(_settle_units(units, exported, propagation, log, influences), log)
    if not blocks:
        return settled
    groups = tuple(blocks.get(group.name, group) for group in settled.groups)
    whole = replace(settled, groups=groups, program=Program(exported, propagation))
    reasons = verify_blocks(whole, exported, propagation, log, influences)
    return frozen_by(replace(settled, groups=groups), reasons)


def _with_fewest(graph: PruningGraph, log: TrialLog) -> PruningGraph:
    """Groups that the model does not run without keep two units.

    Whether it runs is a matter of shapes; what the time leaves open keeps one.
    """
    shapes = ShapeTrial(graph, log)
    bisection = Bisection(family)
    if shapes.possible:
        bisection.keep(_free(graph), shapes.problem_of_min_widths)
    refused = _refused(bisection.reasons)
    return replace(
        graph,
        groups=tuple(
            replace(group, min_width=2) if group.name in refused and group.width > 2 else group
            for group in graph.groups
        ),
    )


def verify_blocks(
    graph: PruningGraph,
    exported: Exported,
    propagation: Propagation,
    log: TrialLog,
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
    for level in _levels(graph, propagation):
        resting = dict.fromkeys(set(blocks).difference(level), "")
        trial = frozen_by(as_graph, resting)
        reasons |= verify(trial, exported, propagation, log, influences, trusted=units)
    failed = next((name for name in reasons if name in units), None)
    if log.is_out_of_time:
        return dict.fromkeys(blocks, LATE)
    if failed is not None:
        return dict.fromkeys(blocks, f"{BESIDE} {failed}")
    return reasons


def _levels(graph: PruningGraph, propagation: Propagation) -> list[list[str]]:
    """Names of the removable blocks by how many others they lie in, none of them first."""
    levels: dict[int, list[str]] = {}
    for block in propagation.blocks:
        group = graph.groups[graph.group_of[block.atom]]
        if group.status != "frozen":
            depth = sum(block.add in other.inner for other in propagation.blocks)
            levels.setdefault(depth, []).append(group.name)
    return [levels[depth] for depth in sorted(levels)]


def _settle_units(
    graph: PruningGraph,
    exported: Exported,
    propagation: Propagation,
    log: TrialLog,
    influences: Influences,
) -> PruningGraph:
    """`settle` for all groups but blocks.

    Where the user's own class cannot lose some, because its forward holds constants, all are
    verified on the exported graph first, and then it is asked which ones the class can lose. What
    the time leaves open of that, the graph loses.
    """
    known = {group.name: GRAPH_ONLY for group in graph.prunable if group.form == "graph"}
    bisection = Bisection(family)
    _of_fitting_shapes(frozen_by(graph, known), bisection, log)
    known |= bisection.reasons
    if not _refused(known):
        rest = frozen_by(graph, known)
        joint = known | verify(rest, exported, propagation, log, influences, jointly=True)
        if not _refused(joint):
            return frozen_by(graph, joint)
    as_graph = replace(
        graph,
        groups=tuple(replace(group, form="graph") for group in graph.groups),
        program=Program(exported, propagation),
    )
    whole = verify(as_graph, exported, propagation, log, influences)
    rest = replace(frozen_by(graph, known), program=as_graph.program)
    trusted = not _refused(whole)
    lost, shown = _lost_by_graph_only(
        rest, exported, propagation, log, influences, trusted=trusted
    )
    own = known | lost
    names = {group.name for group in graph.prunable}
    if own.keys() >= names and _is_unlike(graph, exported, propagation, log):
        return frozen_by(graph, dict.fromkeys(names, RANDOM))
    if len(_refused(whole)) > len(own):
        rest = frozen_by(graph, own)
        by_class = verify(rest, exported, propagation, log, influences)
        if not log.is_out_of_time:
            return frozen_by(rest, by_class)
    left = names.difference(own, shown) | own.keys()
    groups = tuple(
        replace(group, form="graph" if group.name in left else "module") for group in graph.groups
    )
    return frozen_by(replace(as_graph, groups=groups), whole)


def _lost_by_graph_only(
    graph: PruningGraph,
    exported: Exported,
    propagation: Propagation,
    log: TrialLog,
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
        propagation: its labels.
        log: of the trials.
        influences: what `verify` has seen of the graph; the same draws are tried.
        trusted: the program has been verified, so that it tells what is right; it takes less time
            than the reference.
    """
    bisection = Bisection(family)
    bisection.most = BRIEF
    names, shown = _free(graph), set[str]()
    influence = Influence(graph, exported, propagation, log)
    trial: ModuleVsGraphTrial | NumericTrial
    draws = dict.fromkeys((seed, scale) for seed, scale, _ in influences)
    for seed, scale in draws or [(seed, 1.0) for seed in range(ROUNDS)]:
        names = [name for name in names if seed < ROUNDS or name not in shown]
        if not names:
            break
        if trusted:
            trial = ModuleVsGraphTrial(graph, seed, scale, log)
        else:
            trial = NumericTrial(graph, exported, propagation, seed, scale, log=log, alone=True)
        names = bisection.keep(names, trial.problem)
        if not shown.issuperset(names):
            shown |= _shown(influence.beside(names, seed, trial.scale), max(trial.off, EXACT))
    return bisection.reasons, shown


def _of_fitting_shapes(graph: PruningGraph, bisection: Bisection, log: TrialLog) -> list[str]:
    """The groups that the model runs without, as far as shapes tell."""
    trial = ShapeTrial(graph, log)
    return bisection.keep(_free(graph), trial.problem) if trial.possible else _free(graph)


def _is_unlike(
    graph: PruningGraph, exported: Exported, propagation: Propagation, log: TrialLog
) -> bool:
    """Whether not even the dense model is what was exported: where no trial went well, that may
    be the reason."""
    trial = NumericTrial(graph, exported, propagation, 0, log=log, alone=True)
    return trial.dense_error() > UNLIKE


def _refused(reasons: dict[str, str]) -> list[str]:
    """The groups that a trial refused, and not the clock or the control."""
    return [name for name, reason in reasons.items() if reason not in (LATE, IDLE)]


def verify(
    graph: PruningGraph,
    exported: Exported,
    propagation: Propagation,
    log: TrialLog,
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
        propagation: its labels.
        log: of the trials.
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
    bisection = Bisection()
    if jointly:
        bisection.most = 0
        names = _free(graph)
    else:
        names = _of_fitting_shapes(graph, bisection, log)
    proven: set[str] = set(trusted)
    influence = Influence(graph, exported, propagation, log)
    blocks = {group.name for group in graph.removable}
    rescaling, drawn = 1.0, list[Draw]()
    for seed in range(ROUNDS + EXTRA_ROUNDS):
        names = [name for name in names if seed < ROUNDS or name not in proven]
        if not names or log.is_out_of_time:
            break
        scale = rescaling * 0.5 ** max(0, seed - ROUNDS + 1)
        is_alone = bool(trusted) or seed != 1
        trial = NumericTrial(graph, exported, propagation, seed, scale, log=log, alone=is_alone)
        bisection.failed = False
        names = bisection.keep(names, trial.problem)
        rescaling *= trial.scale / scale
        if jointly and _refused(bisection.reasons):
            return bisection.reasons
        drawn.append((seed, trial.scale, frozenset(names).difference(blocks)))
        if not influences.setdefault(drawn[-1], {}) and not proven.issuperset(names):
            influences[drawn[-1]] = influence.beside(sorted(drawn[-1][2]), seed, trial.scale)
        tried = set(names) - _left_in(graph, names, seed)
        proven |= _shown(influences[drawn[-1]], max(trial.off, EXACT)) & tried
    idle = [name for name in names if name not in proven]
    if idle and drawn:
        seed, scale, _ = drawn[0]
        trial = NumericTrial(graph, exported, propagation, seed, scale, log=log)
        proven |= trial.moved_by(idle)
    idle = [name for name in _free(graph) if name not in proven]
    reason = LATE if log.is_out_of_time else IDLE
    problems = {
        name: told
        for name, told in bisection.reasons.items()
        if told != LATE or name not in proven or bisection.failed
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
