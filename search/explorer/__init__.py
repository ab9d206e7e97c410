"""Archtree: the tree search over pruned sub-models, as ask and tell."""

from search.explorer.config import SearchConfig
from search.explorer.explorer import Explorer
from search.explorer.node import Candidate, Node, Start
from search.explorer.outcomes import Failed, Measured, Scored, Tuned

__all__ = [
    "Candidate",
    "Explorer",
    "Failed",
    "Measured",
    "Node",
    "Scored",
    "SearchConfig",
    "Start",
    "Tuned",
]
