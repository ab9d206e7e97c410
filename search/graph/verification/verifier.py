"""Decides which groups can be trusted, and in which form: of the user's class or as the exported
graph.

Which trials there are, and what they compare, it does not know.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from search.graph.exported.deadline import LATE
from search.graph.pruning_graph import PruningGraph, frozen_by
from search.graph.verification.bisection import Bisection, family
from search.graph.verification.class_check import ClassCheck, check_class
from search.graph.verification.comparison import UNLIKE
from search.graph.verification.fingerprint import fingerprint_of
from search.graph.verification.rounds import (
    PassedDraw,
    Rounds,
    Verification,
    bisect_by_shapes,
    free_names,
    refused,
)
from search.graph.verification.subject import Subject
from search.graph.verification.trials import Trials

GRAPH_ONLY = "unverified: only an exported graph can lose its units, and this one cannot"
BESIDE = "unverified: the exported graph cannot lose the units of"
RANDOM = (
    "unverified: the model's forward does not repeat what torch.export saw of it; is it random, "
    "or does it keep a state?"
)


class Verifier:
    """Verifies the groups of a model, form by form.

    It keeps the influences that were measured on every draw so far: a group is proven only by a
    trial on a draw on which what is left of it matters, and that does not depend on its form.

    Args:
        subject: the groups, not verified; the parameters of its float64 copy are overwritten.
        trials: makes the trials, and logs them.
    """

    def __init__(self, subject: Subject, trials: Trials) -> None:
        self._subject, self._trials, self._log = subject, trials, trials.log
        self._influences: dict[PassedDraw, Mapping[str, float]] = {}

    def settled(self) -> PruningGraph:
        """The graph with all frozen that cannot be trusted, and the form of the rest.

        Blocks come last: they are removed beside everything else that has passed.
        """
        graph = self._subject.graph
        self._log.begin(fingerprint_of(self._subject))
        blocks = {group.name: group for group in graph.removable}
        units = self._settled_units(frozen_by(graph, dict.fromkeys(blocks, LATE)))
        settled = self._with_min_widths(units)
        if not blocks:
            return settled
        groups = tuple(blocks.get(group.name, group) for group in settled.groups)
        whole = replace(settled, groups=groups)
        return frozen_by(whole, self.verify_blocks(whole))

    def verify(
        self, graph: PruningGraph, *, jointly: bool = False, trusted: Collection[str] = ()
    ) -> Verification:
        """Find the groups of `graph` that cannot be trusted in the form that it gives them.

        Args:
            graph: the groups of the subject, some of them frozen, in any form.
            jointly: see `Rounds`.
            trusted: see `Rounds`.
        """
        rounds = Rounds(
            self._subject.of(graph),
            self._trials,
            self._influences,
            jointly=jointly,
            trusted=trusted,
        )
        found = rounds.run()
        self._influences |= found.influences
        return found

    def verify_blocks(self, graph: PruningGraph) -> dict[str, str]:
        """Find the blocks that cannot be trusted.

        A model without some block is a `PrunedGraph`, whatever the forms of its other groups; so
        all groups are cut together in that form, and if one fails there, no block is removed.
        Blocks inside of others have a trial of their own: without the outer one it would not show
        how they go.

        Args:
            graph: its groups of units have been verified.

        Returns:
            Name of a block -> the reason why it must be frozen.
        """
        blocks = [group.name for group in graph.removable]
        units = {group.name for group in graph.prunable}
        as_graph = self._as_graph(graph)
        reasons: dict[str, str] = {}
        for level in self._levels(graph):
            others = dict.fromkeys(set(blocks).difference(level), "")
            reasons |= self.verify(frozen_by(as_graph, others), trusted=units).reasons
        failed = next((name for name in reasons if name in units), None)
        if self._log.is_out_of_time:
            return dict.fromkeys(blocks, LATE)
        if failed is not None:
            return dict.fromkeys(blocks, f"{BESIDE} {failed}")
        return reasons

    def _as_graph(self, graph: PruningGraph) -> PruningGraph:
        """All groups in the form of the exported graph."""
        groups = tuple(replace(group, form="graph") for group in graph.groups)
        return replace(graph, groups=groups, program=self._subject.program)

    def _levels(self, graph: PruningGraph) -> list[list[str]]:
        """Names of the removable blocks by how many others they lie in, none of them first."""
        levels: dict[int, list[str]] = {}
        blocks = self._subject.propagation.blocks
        for block in blocks:
            group = graph.groups[graph.group_of[block.atom]]
            if group.status != "frozen":
                depth = sum(block.add in other.inner for other in blocks)
                levels.setdefault(depth, []).append(group.name)
        return [levels[depth] for depth in sorted(levels)]

    def _settled_units(self, graph: PruningGraph) -> PruningGraph:
        """`settled` for all groups but blocks.

        All are tried in the user's class together first. Where that cannot lose some, because its
        forward holds constants, each group gets a form of its own.
        """
        known = {group.name: GRAPH_ONLY for group in graph.prunable if group.form == "graph"}
        rest = frozen_by(graph, known)
        known |= bisect_by_shapes(
            self._subject.of(rest), self._trials, Bisection(family), free_names(rest)
        ).reasons
        if not refused(known):
            found = self.verify(frozen_by(graph, known), jointly=True)
            joint = {**known, **found.reasons}
            if not refused(joint):
                return frozen_by(graph, joint)
        return self._with_forms(graph, known)

    def _with_forms(self, graph: PruningGraph, known: Mapping[str, str]) -> PruningGraph:
        """All groups verified on the exported graph, and those of them in the user's class that it
        can lose. What the time leaves open of that, the graph loses.

        Args:
            graph: its groups, without blocks.
            known: those that the class cannot lose as far as shapes show, and why.
        """
        as_graph = self._as_graph(graph)
        whole = self.verify(as_graph).reasons
        rest = replace(frozen_by(graph, known), program=as_graph.program)
        check = self._checked_class(rest, trusted=not refused(whole))
        not_by_class = {**known, **check.reasons}
        names = {group.name for group in graph.prunable}
        if not_by_class.keys() >= names and self._is_unlike(graph):
            return frozen_by(graph, dict.fromkeys(names, RANDOM))
        if len(refused(whole)) > len(not_by_class):
            rest = frozen_by(graph, not_by_class)
            found = self.verify(rest)
            if not self._log.is_out_of_time:
                return frozen_by(rest, found.reasons)
        by_graph = names.difference(not_by_class, check.shown) | not_by_class.keys()
        groups = tuple(
            replace(group, form="graph" if group.name in by_graph else "module")
            for group in graph.groups
        )
        return frozen_by(replace(as_graph, groups=groups), whole)

    def _checked_class(self, graph: PruningGraph, *, trusted: bool) -> ClassCheck:
        subject = self._subject.of(graph)
        return check_class(subject, self._trials, self._influences.keys(), trusted=trusted)

    def _is_unlike(self, graph: PruningGraph) -> bool:
        """Whether not even the dense model is what was exported: where no trial passed, that may
        be the reason."""
        draw = self._trials.draw(0, 1.0)
        return self._trials.dense(self._subject.of(graph), draw).error() > UNLIKE

    def _with_min_widths(self, graph: PruningGraph) -> PruningGraph:
        """Groups that the model does not run without keep two units.

        Whether it runs is a matter of shapes; what the time leaves open keeps one.
        """
        trial = self._trials.shape(self._subject.of(graph))
        if not trial.is_possible:
            return graph
        found = Bisection(family).bisect(free_names(graph), trial.result_of_min_widths)
        wide = refused(found.reasons)
        groups = tuple(
            replace(group, min_width=2) if group.name in wide and group.width > 2 else group
            for group in graph.groups
        )
        return replace(graph, groups=groups)
