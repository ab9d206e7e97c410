"""The pruning library. Names load on first use, so that importing `search` costs nothing."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.criteria import score_channels
    from search.driver import SearchResult, run_search
    from search.explorer import Explorer, SearchConfig
    from search.floors import layer_floors
    from search.graph import Group, PruningGraph, trace
    from search.loading import load_pruned
    from search.onnx_in import from_onnx
    from search.plan import Plan
    from search.sensitivity import Sensitivity, layer_sensitivity
    from search.surgery import prune

_HOMES = {
    "Explorer": "search.explorer",
    "Group": "search.graph",
    "Plan": "search.plan",
    "PruningGraph": "search.graph",
    "SearchConfig": "search.explorer",
    "SearchResult": "search.driver",
    "Sensitivity": "search.sensitivity",
    "from_onnx": "search.onnx_in",
    "layer_floors": "search.floors",
    "layer_sensitivity": "search.sensitivity",
    "load_pruned": "search.loading",
    "prune": "search.surgery",
    "run_search": "search.driver",
    "score_channels": "search.criteria",
    "trace": "search.graph",
}

__all__ = [
    "Explorer",
    "Group",
    "Plan",
    "PruningGraph",
    "SearchConfig",
    "SearchResult",
    "Sensitivity",
    "from_onnx",
    "layer_floors",
    "layer_sensitivity",
    "load_pruned",
    "prune",
    "run_search",
    "score_channels",
    "trace",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
