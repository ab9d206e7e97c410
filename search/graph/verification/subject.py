"""What is verified: the groups of a model, and the exported graph that they were found in.

It knows no trial.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import Exported
from search.graph.pruned.pruned_graph import Program
from search.graph.pruning_graph import PruningGraph


@dataclass(frozen=True, eq=False)
class Subject:
    """What is verified.

    Attributes:
        graph: the analysis of a float64 copy; trials overwrite the parameters of the copy.
        exported: the dense graph, in float64.
        propagation: its labels.
    """

    graph: PruningGraph
    exported: Exported
    propagation: Propagation

    @property
    def program(self) -> Program:
        """The exported graph as what a `PrunedGraph` is made of."""
        return Program(self.exported, self.propagation)

    def of(self, graph: PruningGraph) -> Subject:
        """The same exported graph with other groups, or other forms of them."""
        return replace(self, graph=graph)
