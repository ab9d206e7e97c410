"""Trials of a random plan: what a pruned copy computes, against the dense graph with units zeroed.

| symbol | meaning |
|---|---|
| TOLERANCE | a pruned copy that is off by more is wrong |
| CONTROL | a unit must matter by so many times what a trial is off by, or that proves nothing |
| EXACT | no trial counts as less off than this; what is further off must be due to the last bit |
| ROUNDING | by so many times what moving weights by their last bit changes, at most |
| RESCALING | weights that make too much of the last bit are drawn anew, smaller by this factor |
| MOST_RESCALINGS | how often at most |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from search.graph.dependency.labels import KeepMask
from search.graph.dependency.propagation import Propagation
from search.graph.exported.deadline import LATE
from search.graph.exported.diagnostics import summary_of
from search.graph.exported.export import Exported
from search.graph.pruning_graph import PruningGraph
from search.graph.trial_log import TrialLog, Verdict, problem_in
from search.graph.verification.comparison import (
    CONTROL,
    EXACT,
    ROUNDING,
    TOLERANCE,
    _last_bit,
    failure_on_smaller_tensors,
    first_examples,
    outputs_of,
    quiet,
    random_plan,
    relative_error,
    tensors_among,
)
from search.graph.verification.masked_reference import MaskedInterpreter
from search.graph.verification.redraw import redraw
from search.plan import Plan, best_of
from search.surgery import prune
from search.tensors import named_tensors

RESCALING = 0.7
MOST_RESCALINGS = 3


class NumericTrial:
    """Compares numbers, on parameters drawn by `seed` and `scale`: the graph's copy is redrawn
    before the first trial that is held.

    Args:
        graph: the analysis of a float64 copy.
        exported: the dense graph.
        propagation: its labels.
        seed: of the parameters and of the plan.
        scale: of the weights.
        alone: try the first example alone, which costs half as much; what goes wrong with it is
            tried again with both, until that has once given the same answer.
        log: of its trials.

    Attributes:
        off: the largest error of the trials that went well.
        scale: of the weights; smaller than it was asked for where those made too much of the
            last bit, as a deep network without a half of its units may.
    """

    def __init__(
        self,
        graph: PruningGraph,
        exported: Exported,
        propagation: Propagation,
        seed: int,
        scale: float = 1.0,
        *,
        log: TrialLog,
        alone: bool = False,
    ) -> None:
        self.off = 0.0
        self.scale = scale
        self._rescalings_left = MOST_RESCALINGS
        self._graph = graph
        self._seed = seed
        self._is_drawn = False
        self._masked = MaskedInterpreter(exported, propagation)
        self._tensors = named_tensors(graph.model)
        self._log = log
        one = first_examples(graph.dynamic_batch, graph.example_inputs)
        self._first = one if alone else None
        self._one_tells = False

    def problem(self, names: Sequence[str]) -> str | None:
        """What goes wrong when the groups `names` are cut, LATE among it; None if nothing does."""

        def hold() -> Verdict:
            return {"problem": self._problem_of_any(names), **self._state()}

        told = self._heard("numbers", names, hold)
        if told is None:
            return LATE
        self._restore(told)
        return problem_in(told)

    def _heard(
        self, trial: str, names: Sequence[str], hold: Callable[[], Verdict]
    ) -> Verdict | None:
        """What a trial tells that is held on the parameters drawn."""

        def hold_drawn() -> Verdict:
            if not self._is_drawn:
                redraw(self._graph.model, self._seed, self.scale)
                self._is_drawn = True
            return hold()

        return self._log.verdict(f"{trial} {self._seed} {self.scale}", names, hold_drawn)

    def _state(self) -> Verdict:
        """What a verdict changes for those after it."""
        return {
            "off": self.off,
            "scale": self.scale,
            "rescalings_left": self._rescalings_left,
            "alone": self._first is not None,
            "one_tells": self._one_tells,
        }

    def _restore(self, state: Verdict) -> None:
        self.off = state["off"]
        self.scale, self._rescalings_left = state["scale"], state["rescalings_left"]
        self._first = self._first if state["alone"] else None
        self._one_tells = state["one_tells"]

    def _problem_of_any(self, names: Sequence[str]) -> str | None:
        if self._first is None:
            return self._problem_of_both(names)
        try:
            one = self._problem(names, self._first)
            if one is None or self._one_tells:
                return one
        except Exception:  # a graph that was exported for two examples may have no sizes for one
            one = None
        both = self._problem_of_both(names)
        self._one_tells = one is not None and both is not None
        if not self._one_tells:
            self._first = None
        return both

    def _problem_of_both(self, names: Sequence[str]) -> str | None:
        try:
            return self._problem(names, self._graph.example_inputs)
        except Exception as error:  # the graph calls what the forward of a user's module calls
            return f"the exported graph does not run on the example inputs ({summary_of(error)})"

    def _problem(self, names: Sequence[str], inputs: Sequence[Tensor]) -> str | None:
        plan = random_plan(self._graph.groups, names, self._seed)
        while True:
            try:
                outputs = outputs_of(prune(self._graph.model, self._graph, plan), inputs)
            except Exception as error:  # whatever the forward of a user's module raises
                return failure_on_smaller_tensors(error)
            off = relative_error(outputs, self._expected(inputs, self._graph.kept_atoms(plan)))
            if off <= EXACT:
                return None
            if off <= TOLERANCE or self._rescalings_left:
                pruned = prune(self._graph.model, self._graph, plan)
                bit = _last_bit(pruned, inputs, outputs)
                if off <= min(TOLERANCE, ROUNDING * bit):
                    self.off = max(self.off, off)
                    return None
                self._rescalings_left *= bit > EXACT
            if not self._rescalings_left:
                return f"the pruned model is off by {off:.1e}"
            self._rescale()

    def _rescale(self) -> None:
        """Draw the weights anew, smaller, because the last bit of them decides.

        One draw that is calm is enough: nothing is asked after that.
        """
        self._rescalings_left -= 1
        self.scale *= RESCALING
        redraw(self._graph.model, self._seed, self.scale)

    def moved_by(self, names: Sequence[str]) -> set[str]:
        """Those of the groups `names` without half the units of which the dense graph computes
        something else: what `influence` cannot see where a gradient is zero or does not exist."""

        def hold() -> Verdict:
            moved = self._moved_by(names, self._without([]), self._without(names))
            return {"moved": sorted(moved)}

        told = self._heard("moved by", names, hold)
        return set() if told is None else set(told["moved"])

    def _moved_by(
        self, names: Sequence[str], before: list[Tensor], after: list[Tensor], first: int = 0
    ) -> set[str]:
        """Those of names[first:] that matter where names[:first] are cut already.

        Args:
            names: groups.
            before: what the graph computes without half the units of names[:first].
            after: what it computes without half of those of all `names`.
            first: how many of the groups are cut in `before`.
        """
        if relative_error(after, before) < CONTROL * TOLERANCE:
            return set()
        if len(names) - first == 1:
            return {names[first]}
        middle = (first + len(names)) // 2
        between = self._without(names[:middle])
        found = self._moved_by(names[:middle], before, between, first)
        return found | self._moved_by(names, between, after, middle)

    def _without(self, names: Sequence[str]) -> list[Tensor]:
        """What the graph computes without half the units of the groups `names`."""
        kept = dict(self._graph.dense_plan().kept)
        for group in self._graph.groups:
            if group.name in names:
                count = (group.width + 1) // 2 if group.min_width else 0
                kept[group.name] = best_of(range(group.width), count, group.required_any_of)
        return self._expected(self._graph.example_inputs, self._graph.kept_atoms(Plan(kept)))

    def dense_error(self) -> float:
        """How far the model itself is from its exported graph, with nothing cut; 0 if the graph
        does not run, or the time is over before that is known."""
        told = self._heard("dense", [], lambda: {"off": self._dense_error_of_any()})
        return 0.0 if told is None else float(told["off"])

    def _dense_error_of_any(self) -> float:
        for inputs in (self._first, self._graph.example_inputs):
            if inputs is not None:  # a graph that was exported for two may have no sizes for one
                with suppress(Exception):
                    return self._dense_error(inputs)
        return 0.0

    def _dense_error(self, inputs: Sequence[Tensor]) -> float:
        kept = self._graph.kept_atoms(self._graph.dense_plan())
        return relative_error(outputs_of(self._graph.model, inputs), self._expected(inputs, kept))

    def _expected(self, inputs: Sequence[Tensor], kept: KeepMask) -> list[Tensor]:
        """What the dense graph makes of `inputs` with only `kept`; see `run_masked`."""
        with torch.no_grad(), quiet():
            return tensors_among(self._masked.run_masked(self._tensors, inputs, kept))
