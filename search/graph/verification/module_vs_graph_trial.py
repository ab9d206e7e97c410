"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from torch import Tensor

from search.graph.exported.deadline import LATE
from search.graph.pruning_graph import PruningGraph
from search.graph.trial_log import TrialLog, Verdict, problem_in
from search.graph.verification.comparison import (
    EXACT,
    ROUNDING,
    TOLERANCE,
    _last_bit,
    failure_on_smaller_tensors,
    first_examples,
    outputs_of,
    random_plan,
    relative_error,
)
from search.graph.verification.redraw import redraw
from search.surgery import prune


class ModuleVsGraphTrial:
    """Compares the user's class with the exported graph, both without the same units.

    Args:
        graph: the analysis of a float64 copy, which is redrawn; it has a program.
        seed: of the parameters and of the plan.
        scale: of the weights.
        log: of its trials.

    Attributes:
        off: the largest error of the trials that went well.
    """

    def __init__(self, graph: PruningGraph, seed: int, scale: float, log: TrialLog) -> None:
        self.off = 0.0
        self._graph, self._seed, self._log = graph, seed, log
        self.scale = scale
        self._is_drawn = False

    def problem(self, names: Sequence[str]) -> str | None:
        """What goes wrong when the groups `names` are cut, LATE among it; None if nothing does."""

        def hold() -> Verdict:
            if not self._is_drawn:
                redraw(self._graph.model, self._seed, self.scale)
                self._is_drawn = True
            return {"problem": self._problem_of_any(names), "off": self.off}

        told = self._log.verdict(f"forms {self._seed} {self.scale}", names, hold)
        if told is None:
            return LATE
        self.off = told["off"]
        return problem_in(told)

    def _problem_of_any(self, names: Sequence[str]) -> str | None:
        batch = self._graph.example_inputs
        one = first_examples(self._graph.dynamic_batch, batch)
        if one is not None:  # a graph that was exported for two may have no sizes for one
            with suppress(Exception):
                return self._problem(names, one)
        try:
            return self._problem(names, batch)
        except Exception as error:  # whatever the forward of a user's module raises
            return failure_on_smaller_tensors(error)

    def _problem(self, names: Sequence[str], inputs: Sequence[Tensor]) -> str | None:
        plan = random_plan(self._graph.groups, names, self._seed)
        by_class, by_graph = (
            outputs_of(prune(self._graph.model, self._graph, plan, form=form), inputs)
            for form in (None, "graph")
        )
        off = relative_error(by_class, by_graph)
        if off > EXACT:
            bit = _last_bit(prune(self._graph.model, self._graph, plan), inputs, by_class)
            if off > min(TOLERANCE, ROUNDING * bit):
                return f"the pruned model is off by {off:.1e}"
        self.off = max(self.off, off)
        return None
