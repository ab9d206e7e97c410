"""Levels of torch.func: a graph of a vmapped forward opens them in one operator and closes them in
another.

Rare case. Models: forwards that call torch.vmap, as transformers can for masks that are given as
functions; none of benchmarks/coverage/models.txt is known to.
Without it: a run of such a graph that ends half-way leaves a level open, and later calls of torch
in the process run inside of it.
Tests: those of vmapped functions in test_unusual_models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx
from torch._C import _functorch  # private: torch.func has no public way to close a level


def opens_levels(graph: fx.Graph) -> bool:
    """Whether a graph may leave levels open."""
    return any("vmap" in str(node.target) for node in graph.nodes)


@contextmanager
def levels_closed() -> Iterator[None]:
    """Inside, a graph may run that ends half-way; the levels that it leaves open are closed."""
    before = _level()
    try:
        yield
    finally:
        while _level() > before:
            _functorch._vmap_decrement_nesting()


def _level() -> int:
    return _functorch.maybe_current_level() or 0
