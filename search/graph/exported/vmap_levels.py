"""Levels of torch.func: a graph of a vmapped forward opens them in one operator and closes them in
another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx
from torch._C import _functorch


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
