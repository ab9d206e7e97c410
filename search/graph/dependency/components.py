"""Connected components of tied atoms: the unit that every atom belongs to."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from search.graph.dependency.labels import Atoms


def components(count: int, ties: Iterable[tuple[Atoms, Atoms]]) -> Atoms:
    """Atom -> the smallest atom of its component.

    Minimum labels travel along the ties, with pointer jumping, until nothing changes.

    Args:
        count: the number of atoms.
        ties: pairs of arrays; equal positions are connected.

    Returns:
        An array of shape (count,).
    """
    pairs = list(ties)
    roots = np.arange(count, dtype=np.int64)
    if not pairs:
        return roots
    left = np.concatenate([first for first, _ in pairs])
    right = np.concatenate([second for _, second in pairs])
    while True:
        low = np.minimum(roots[left], roots[right])
        before = roots.copy()
        for side in (left, right):
            np.minimum.at(roots, before[side], low)
            np.minimum.at(roots, side, low)
        roots = _compress(roots)
        if np.array_equal(roots, before):
            return roots


def _compress(roots: Atoms) -> Atoms:
    while True:
        shorter = roots[roots]
        if np.array_equal(shorter, roots):
            return roots
        roots = shorter
