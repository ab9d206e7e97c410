"""Trials of a random plan: what a pruned copy computes, against the dense graph with units zeroed.

Deep networks without half of their units may make so much of the last bit of their weights that
nothing can be compared: then the weights are drawn anew, smaller.
"""

from __future__ import annotations

from collections.abc import Sequence

from search.graph.exported.diagnostics import summary_of
from search.graph.pruning_graph import PruningGraph
from search.graph.trial_log import TrialLog
from search.graph.verification.comparison import (
    EXACT,
    Comparison,
    compare,
    failure_on_smaller_tensors,
    outputs_of,
    random_plan,
)
from search.graph.verification.draw import Draw
from search.graph.verification.drawn_trial import DrawnTrial
from search.graph.verification.masked_reference import MaskedReference
from search.graph.verification.one_example_first import Inputs, OneExampleFirst
from search.plan import Plan
from search.surgery import prune


class NumericTrial(DrawnTrial):
    """Compares numbers of a pruned copy with those of the masked dense graph.

    Args:
        graph: see `DrawnTrial`.
        draw: see `DrawnTrial`; it is rescaled where the last bit of the weights decides.
        examples: see `DrawnTrial`.
        log: see `DrawnTrial`.
        reference: what a pruned copy must compute.
    """

    NAME = "numbers"

    def __init__(
        self,
        graph: PruningGraph,
        draw: Draw,
        examples: OneExampleFirst,
        log: TrialLog,
        reference: MaskedReference,
    ) -> None:
        super().__init__(graph, draw, examples, log)
        self._reference = reference

    def _problem(self, names: Sequence[str], inputs: Inputs) -> str | None:
        plan = random_plan(self._graph.groups, names, self._draw.seed)
        while True:
            compared = self._compared(plan, inputs)
            if isinstance(compared, str):
                return compared
            if compared.is_equal:
                self._passed(compared.error)
                return None
            if self._draw.rescalings_left and compared.last_bit <= EXACT:
                self._draw.stop_rescaling()
            if not self._draw.rescalings_left:
                return f"the pruned model is off by {compared.error:.1e}"
            self._draw.rescale(self._graph.model)

    def _compared(self, plan: Plan, inputs: Inputs) -> Comparison | str:
        """The comparison on the draw as it is; the problem where the pruned copy does not run."""
        try:
            outputs = outputs_of(prune(self._graph.model, self._graph, plan), inputs)
        except Exception as error:  # whatever the forward of a user's module raises
            return failure_on_smaller_tensors(error)
        expected = self._reference.outputs(inputs, self._graph.kept_atoms(plan))
        return compare(
            outputs, expected, inputs, lambda: prune(self._graph.model, self._graph, plan)
        )

    def _failure(self, error: Exception) -> str:
        """The graph calls what the forward of a user's module calls."""
        return f"the exported graph does not run on the example inputs ({summary_of(error)})"
