"""The analysis of a model: which units of which tensors can only be removed together."""

from search.graph.pruning_graph import PruningGraph
from search.graph.tracing import trace
from search.graph.types import Group, Member

__all__ = ["Group", "Member", "PruningGraph", "trace"]
