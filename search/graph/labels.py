"""Labels: which atom every index of every dimension of a value belongs to.

| symbol | meaning |
|---|---|
| atom | one index of one dimension of one parameter or buffer; atoms tied together form a unit |
| axis | the atoms along one dimension, shape (size,); FIXED where an index can never be removed |
| None | an axis that is FIXED throughout: batch, height, the classes of the output |

A rule returns new labels and an Effect; nothing here knows models, torch or groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Atoms: TypeAlias = NDArray[np.int64]
Axis: TypeAlias = Atoms | None

FIXED = -1
MEETS_FIXED = "its units meet a dimension that cannot shrink"


@dataclass(frozen=True)
class Labels:
    """The axes of one value.

    Attributes:
        shape: sizes at the traced batch size.
        axes: one axis per dimension.
        batch: the dimensions that hold the batch.
        weight: the value is computed from parameters alone.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    batch: frozenset[int] = frozenset()
    weight: bool = False

    def axis(self, dim: int) -> Axis:
        """The axis of `dim`, which may be negative."""
        return self.axes[dim] if self.axes else None

    @property
    def labelled(self) -> tuple[int, ...]:
        """The dimensions that have atoms."""
        return tuple(dim for dim, axis in enumerate(self.axes) if axis is not None)


@dataclass(frozen=True)
class Effect:
    """What an operator does to the atoms: ties, freezes and roles.

    Attributes:
        ties: pairs of arrays of atoms; equal positions belong to one unit.
        freezes: atoms that cannot be removed, and why.
        approximations: atoms that can be removed, but not exactly, and why.
        roles: atoms of weights, and what they do to a unit.
    """

    ties: tuple[tuple[Atoms, Atoms], ...] = ()
    freezes: tuple[tuple[Atoms, str], ...] = ()
    approximations: tuple[tuple[Atoms, str], ...] = ()
    roles: tuple[tuple[Atoms, Literal["producer", "consumer"]], ...] = ()

    def __add__(self, other: Effect) -> Effect:
        return Effect(
            self.ties + other.ties,
            self.freezes + other.freezes,
            self.approximations + other.approximations,
            self.roles + other.roles,
        )

    def said_of(self, place: str) -> Effect:
        """The same effect; its reasons name the place."""
        return replace(
            self,
            freezes=tuple((atoms, f"{reason} ({place})") for atoms, reason in self.freezes),
            approximations=tuple(
                (atoms, f"{reason} ({place})") for atoms, reason in self.approximations
            ),
        )


NOTHING = Effect()


def total(effects: Iterable[Effect]) -> Effect:
    """All effects as one."""
    return sum(effects, NOTHING)


def fixed(shape: Sequence[int], batch: frozenset[int] = frozenset()) -> Labels:
    """Labels of a value of which nothing can be removed."""
    return Labels(tuple(shape), (None,) * len(shape), batch)


def tidy(atoms: Atoms) -> Axis:
    """None where every index is FIXED or there is but one, else the atoms."""
    return None if len(atoms) <= 1 or bool((atoms == FIXED).all()) else atoms


def dense(axis: Axis, size: int) -> Atoms:
    """The axis as an array, FIXED where it has no atoms."""
    return np.full(size, FIXED, np.int64) if axis is None else axis


def freeze(axis: Axis, reason: str) -> Effect:
    """The units of the axis cannot be removed."""
    return NOTHING if axis is None else Effect(freezes=((axis[axis != FIXED], reason),))


def freeze_all(labels: Labels, reason: str) -> Effect:
    """No unit that the value carries can be removed."""
    return total(freeze(axis, reason) for axis in labels.axes)


def tie(first: Axis, second: Axis, reason: str = MEETS_FIXED) -> Effect:
    """Equal positions of the two axes are one unit; what meets FIXED is frozen."""
    if first is None or second is None:
        return freeze(first, reason) + freeze(second, reason)
    meets = (first == FIXED) | (second == FIXED)
    effect = Effect(ties=((first[~meets], second[~meets]),))
    if meets.any():
        effect += freeze(first[meets], reason) + freeze(second[meets], reason)
    return effect


def tie_columns(rows: Atoms) -> Effect:
    """All entries of one column of a (rows, columns) array are one unit."""
    return total(tie(rows[0], row) for row in rows[1:])


def role(axis: Axis, labels: Labels, name: Literal["producer", "consumer"]) -> Effect:
    """The role of an axis of a weight; a value that is no weight has none."""
    if axis is None or not labels.weight:
        return NOTHING
    return Effect(roles=((axis[axis != FIXED], name),))
