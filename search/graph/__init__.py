"""The analysis of a model: which units of which tensors can only be removed together."""

import sys
from importlib import import_module

from search.graph.dependency.groups import Group, Member
from search.graph.pruning_graph import PruningGraph
from search.graph.tracing import trace

__all__ = ["Group", "Member", "PruningGraph", "trace"]

# Pickles of pruned models name the modules that their classes had: old name -> its place now.
_MOVED = {
    "inputs": "pruned.inputs",
    "pickling": "pruned.pickling",
    "program": "pruned.pruned_graph",
    "signatures": "exported.signatures",
}
for _old, _new in _MOVED.items():
    sys.modules[f"{__name__}.{_old}"] = import_module(f"{__name__}.{_new}")
