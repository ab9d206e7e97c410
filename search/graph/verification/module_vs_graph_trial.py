"""Trials of the user's class against the exported graph, both without the same units.

The graph has been verified before, so that it gives what is right; it takes less time than the
dense graph with units zeroed.
"""

from __future__ import annotations

from collections.abc import Sequence

from search.graph.verification.comparison import (
    compare,
    failure_on_smaller_tensors,
    outputs_of,
    random_plan,
)
from search.graph.verification.drawn_trial import DrawnTrial
from search.graph.verification.one_example_first import Inputs
from search.surgery import prune


class ModuleVsGraphTrial(DrawnTrial):
    """Compares the user's class with the exported graph; see `DrawnTrial` for its arguments.

    The graph of the analysis has a program. Its draw is never rescaled: it was passed before.
    """

    NAME = "forms"

    def _problem(self, names: Sequence[str], inputs: Inputs) -> str | None:
        model, graph = self._graph.model, self._graph
        plan = random_plan(graph.groups, names, self._draw.seed)
        by_class = outputs_of(prune(model, graph, plan), inputs)
        by_graph = outputs_of(prune(model, graph, plan, form="graph"), inputs)
        compared = compare(by_class, by_graph, inputs, lambda: prune(model, graph, plan))
        if not compared.is_equal:
            return f"the pruned model is off by {compared.error:.1e}"
        self._passed(compared.error)
        return None

    def _failure(self, error: Exception) -> str:
        return failure_on_smaller_tensors(error)
