"""Archtree: the tree search over pruned sub-models, as ask and tell."""

from search.explorer.config import SearchConfig
from search.explorer.explorer import Explorer
from search.explorer.outcomes import Failed, Measured, Scored
from search.explorer.tree import Candidate, Node

__all__ = ["Candidate", "Explorer", "Failed", "Measured", "Node", "Scored", "SearchConfig"]
