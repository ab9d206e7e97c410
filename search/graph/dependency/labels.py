"""Labels: which atom every index of every dimension of a value belongs to.

| symbol | meaning |
|---|---|
| atom | one index of one dimension of one parameter or buffer; atoms tied together form a unit |
| axis | the atoms along one dimension, shape (size,); FIXED where an index can never be removed |
| None | an axis that is FIXED throughout: batch, height, the classes of the output |
| FREE | an index made from nothing (zeros, an expanded 1): the walk gives it an atom of its own |

A rule returns new labels and an Effect; nothing here knows models, torch or groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import fx

KeepMask: TypeAlias = NDArray[np.bool_]

Atoms: TypeAlias = NDArray[np.int64]
Axis: TypeAlias = Atoms | None
Notes: TypeAlias = tuple[tuple[Atoms, str], ...]  # atoms, and a reason or remark for the report

PICKED = "single ones of its units are picked by their position"
FIXED = -1
FREE = -2
MEETS_FIXED = "its units meet a dimension that cannot shrink"


@dataclass(frozen=True)
class Labels:
    """The axes of one value.

    Attributes:
        shape: sizes at the traced batch size.
        axes: one axis per dimension.
        batch: the dimensions that hold the batch.
        weight: the value is computed from parameters alone.
        vanishes: it is zero where a unit is gone, if all that belongs to the unit is.
        known: the integers themselves, where they are computed from constants alone.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    batch: frozenset[int] = frozenset()
    weight: bool = False
    vanishes: bool = False
    known: Atoms | None = None

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
        statistics: atoms that a mean or norm runs over, which could count them as zeros when they
            are gone; it is exact then, and an approximation where it does not.
        roles: atoms of weights, and what they do to a unit.
        numbered: atoms that an operator computes the number of, as attention does without a given
            scale: only an exported graph can hold the number of the dense model.
        heads: atoms along the dimensions that a product of batches of matrices runs in parallel.
        choices: atoms of an output dimension that another one could carry instead, and how many
            dimensions could.
    """

    ties: tuple[tuple[Atoms, Atoms], ...] = ()
    freezes: Notes = ()
    approximations: Notes = ()
    statistics: Notes = ()
    roles: tuple[tuple[Atoms, Literal["producer", "consumer"]], ...] = ()
    numbered: tuple[Atoms, ...] = ()
    heads: tuple[Atoms, ...] = ()
    choices: tuple[tuple[Atoms, int], ...] = ()

    def __add__(self, other: Effect) -> Effect:
        return total((self, other))

    def with_location(self, place: str) -> Effect:
        """The same effect; its reasons name the place."""

        def located(notes: Notes) -> Notes:
            return tuple((atoms, f"{reason} ({place})") for atoms, reason in notes)

        return replace(
            self,
            freezes=located(self.freezes),
            approximations=located(self.approximations),
            statistics=located(self.statistics),
        )


NOTHING = Effect()


def total(effects: Iterable[Effect]) -> Effect:
    """All effects as one."""
    listed = list(effects)
    joined = {
        field.name: tuple(item for effect in listed for item in getattr(effect, field.name))
        for field in fields(Effect)
    }
    return Effect(**joined)


def fixed(shape: Sequence[int], batch: frozenset[int] = frozenset()) -> Labels:
    """Labels of a value of which nothing can be removed."""
    return Labels(tuple(shape), (None,) * len(shape), batch)


def tidy(atoms: Atoms) -> Axis:
    """None where every index is FIXED or there is but one, else the atoms."""
    return None if len(atoms) <= 1 or bool((atoms == FIXED).all()) else atoms


def cut(axis: Atoms, part: slice) -> tuple[Axis, Effect]:
    """The part of an axis; a part of one index has no axis, so its unit has to stay."""
    atoms = axis[part]
    return (atoms, NOTHING) if len(atoms) > 1 else (None, freeze(atoms, PICKED))


def free(size: int) -> Axis:
    """The axis of a dimension along which all values are equal: it can be of any length."""
    return np.full(size, FREE, np.int64) if size > 1 else None


def dense(axis: Axis, size: int) -> Atoms:
    """The axis as an array, FIXED where it has no atoms."""
    return np.full(size, FIXED, np.int64) if axis is None else axis


def freeze(axis: Axis, reason: str) -> Effect:
    """The units of the axis cannot be removed."""
    return NOTHING if axis is None else Effect(freezes=((axis[axis != FIXED], reason),))


def statistic(axis: Axis, reason: str) -> Effect:
    """A mean or norm runs over the units of the axis."""
    return NOTHING if axis is None else Effect(statistics=((axis[axis != FIXED], reason),))


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
    if bool((rows == rows[0]).all()):
        return NOTHING
    return tie(np.tile(rows[0], len(rows) - 1), rows[1:].reshape(-1))


def meet(axes: Iterable[Axis], reason: str = MEETS_FIXED) -> tuple[Axis, Effect]:
    """One axis of all: equal positions are tied, and FIXED where one of them is."""
    listed = list(axes)
    labelled = [axis for axis in listed if axis is not None]
    if not labelled:
        return None, NOTHING
    if len(labelled) < len(listed):
        return None, total(freeze(axis, reason) for axis in labelled)
    fixed_somewhere = np.logical_or.reduce([axis == FIXED for axis in labelled])
    effect = total(tie(labelled[0], axis, reason) for axis in labelled[1:])
    return np.where(fixed_somewhere, FIXED, labelled[0]), effect


def role(axis: Axis, labels: Labels, name: Literal["producer", "consumer"]) -> Effect:
    """The role of an axis of a weight; a value that is no weight has none."""
    if axis is None or not labels.weight:
        return NOTHING
    return Effect(roles=((axis[axis != FIXED], name),))


@dataclass(frozen=True)
class Block:
    """A branch that can be left out: the sum that it ends in is replaced by its shortcut.

    Attributes:
        name: the module that computes the branch; two blocks may have the same.
        atom: stands for the branch as a whole; no axis of a value holds it.
        add: the addition.
        shortcut: the value that replaces it.
        branch: the value that goes.
        inner: the nodes that nothing but the branch uses, itself among them.
        written: an operator writes into the memory of the sum.
    """

    name: str
    atom: int
    add: fx.Node
    shortcut: fx.Node
    branch: fx.Node
    inner: frozenset[fx.Node]
    written: bool = False
