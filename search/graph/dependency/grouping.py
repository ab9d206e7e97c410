"""From labels to groups: units that one weight creates stand and fall as one group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from search.graph.dependency.components import components
from search.graph.dependency.groups import Form, Group, Kind, Member, Role, Status
from search.graph.dependency.labels import Atoms, Block, KeepMask, Labels
from search.graph.dependency.propagation import Propagation

SINGLE = "it has a single unit"

Cell: TypeAlias = tuple[str, int, Atoms]  # a tensor, a dimension, and its atoms


@dataclass(frozen=True)
class Grouping:
    """The groups, and the way from an atom to its group and unit.

    Attributes:
        groups: in the order of their first producers in the state dict; then the blocks.
        group_of: atom -> number of the group, or -1; shape (atoms,).
        unit_of: atom -> unit inside its group, or -1; shape (atoms,).
    """

    groups: tuple[Group, ...]
    group_of: Atoms
    unit_of: Atoms


def kept_atoms(
    groups: Sequence[Group], group_of: Atoms, unit_of: Atoms, kept: Mapping[str, Iterable[int]]
) -> KeepMask:
    """Atom -> whether it stays when each group in `kept` has these units, the others all."""
    width = max((group.width for group in groups), default=0)
    table = np.ones((len(groups) + 1, width + 1), bool)
    for number, group in enumerate(groups):
        if group.name in kept:
            table[number] = False
            table[number, list(kept[group.name])] = True
    stays: KeepMask = table[group_of, unit_of]
    return stays


def form_groups(propagation: Propagation) -> Grouping:
    """Tied atoms are a unit; units that a producer dimension holds side by side are a group."""
    ties = [tie for effect in propagation.effects for tie in effect.ties]
    roots = components(propagation.atoms, ties)
    roles = _roles(propagation)
    cells = _cells(propagation.tensors)
    made = [atoms for _, _, atoms in cells if bool((roles[atoms] == "producer").any())]
    families = components(propagation.atoms, [*ties, *((atoms[:-1], atoms[1:]) for atoms in made)])
    group_of, unit_of = _number(made, roots, families)
    groups = _with_status(_groups(propagation, roles, group_of, unit_of), propagation, group_of)
    return _with_blocks(Grouping(groups, group_of, unit_of), propagation.blocks)


def _with_blocks(grouping: Grouping, blocks: Sequence[Block]) -> Grouping:
    """A group of one unit for every block, which has no part in any other."""
    taken = {group.name for group in grouping.groups}
    groups = list(grouping.groups)
    group_of, unit_of = grouping.group_of.copy(), grouping.unit_of.copy()
    for block in blocks:
        group_of[block.atom], unit_of[block.atom] = len(groups), 0
        numbered = (f"{block.name}#block{number}" for number in range(2, len(blocks) + 2))
        names = chain((block.name, f"{block.name}#block"), numbered)
        name = next(name for name in names if name not in taken)
        taken.add(name)
        groups.append(Group(name, 1, "block", (), "prunable", form="graph", min_width=0))
    return Grouping(tuple(groups), group_of, unit_of)


def _roles(propagation: Propagation) -> NDArray[np.str_]:
    """Atom -> role; a tied weight that both reads and creates counts as a producer."""
    roles = np.full(propagation.atoms, "follower", dtype="U8")
    for wanted in ("consumer", "producer"):
        for effect in propagation.effects:
            for atoms, role in effect.roles:
                if role == wanted:
                    roles[atoms] = role
    return roles


def _cells(tensors: Mapping[str, Labels]) -> list[Cell]:
    return [
        (name, dim, axis)
        for name, labels in tensors.items()
        for dim, axis in enumerate(labels.axes)
        if axis is not None
    ]


def _number(made: Iterable[Atoms], roots: Atoms, families: Atoms) -> tuple[Atoms, Atoms]:
    """Number the groups by their first producer, and units by their first index in it."""
    group_of = np.full(len(roots), -1, np.int64)
    unit_of = np.full(len(roots), -1, np.int64)
    units: dict[int, dict[int, int]] = {}
    for atoms in made:
        numbers = units.setdefault(int(families[atoms[0]]), {})
        for root in roots[atoms].tolist():
            numbers.setdefault(root, len(numbers))
    for group, (family, numbers) in enumerate(units.items()):
        inside = np.flatnonzero(families == family)
        group_of[inside] = group
        unit_of[inside] = [numbers[root] for root in roots[inside].tolist()]
    return group_of, unit_of


def _groups(
    propagation: Propagation, roles: NDArray[np.str_], group_of: Atoms, unit_of: Atoms
) -> list[Group]:
    widths = [
        int(unit_of[group_of == group].max()) + 1
        for group in range(int(group_of.max(initial=-1)) + 1)
    ]
    members: list[list[Member]] = [[] for _ in widths]
    for name, dim, atoms in _cells(propagation.tensors):
        for group in np.unique(group_of[atoms]).tolist():
            if group >= 0:
                places = np.flatnonzero(group_of[atoms] == group)
                role: Role = str(roles[atoms[places[0]]])  # type: ignore[assignment]
                indices = _indices(places, unit_of[atoms[places]], widths[group])
                members[group].append(Member(name, dim, role, indices))
    names = _names(members)
    ranks = {name: len(labels.shape) for name, labels in propagation.tensors.items()}
    heads = {
        group
        for effect in propagation.effects
        for atoms in effect.heads
        for group in np.unique(group_of[atoms]).tolist()
    }
    return [
        Group(
            name, width, "heads" if number in heads else _kind(own, ranks), tuple(own), "prunable"
        )
        for number, (name, width, own) in enumerate(zip(names, widths, members, strict=True))
    ]


def _indices(places: Atoms, units: Atoms, width: int) -> tuple[tuple[int, ...], ...]:
    indices: list[list[int]] = [[] for _ in range(width)]
    for place, unit in zip(places.tolist(), units.tolist(), strict=True):
        indices[unit].append(place)
    return tuple(map(tuple, indices))


def _kind(members: Iterable[Member], ranks: Mapping[str, int]) -> Kind:
    """Hidden units are made by linear layers alone, channels by convolutions."""
    producers = [member.tensor for member in members if member.role == "producer"]
    return "hidden" if all(ranks[tensor] == 2 for tensor in producers) else "channels"


def _names(members: Iterable[Iterable[Member]]) -> list[str]:
    """The module of the first producer; the tensor's whole name where two would be equal."""
    firsts = [
        next(member.tensor for member in own if member.role == "producer") for own in members
    ]
    modules = [tensor.rpartition(".")[0] or tensor for tensor in firsts]
    names = [
        tensor if modules.count(module) > 1 else module
        for tensor, module in zip(firsts, modules, strict=True)
    ]
    return [
        f"{name}#{number}" if names.count(name) > 1 else name for number, name in enumerate(names)
    ]


def _with_status(
    groups: Iterable[Group], propagation: Propagation, group_of: Atoms
) -> tuple[Group, ...]:
    frozen = _first_reasons(((a, r) for e in propagation.effects for a, r in e.freezes), group_of)
    mixed = _first_reasons(_approximations(propagation), group_of)
    counted = _first_reasons(
        (note for e in propagation.effects for note in e.statistics), group_of
    )
    numbered = (atoms for effect in propagation.effects for atoms in effect.numbered)
    held = np.unique(group_of[np.concatenate([propagation.averaged, *numbered])])
    described = []
    for number, group in enumerate(groups):
        status: Status = "prunable"
        reason = frozen.get(number, "") or (SINGLE if group.width == 1 else "")
        if reason:
            status = "frozen"
        elif number in mixed:
            status, reason = "approximate", mixed[number]
        by_graph = number in held or (number in counted and status == "prunable")
        form: Form = "graph" if by_graph and status != "frozen" else "module"
        described.append(replace(group, status=status, reason=reason, form=form))
    return tuple(described)


def _approximations(propagation: Propagation) -> Iterator[tuple[Atoms, str]]:
    """Also statistics, but of the atoms that they count."""
    counted = np.zeros(propagation.atoms, bool)
    counted[propagation.counted] = True
    for effect in propagation.effects:
        yield from effect.approximations
        yield from ((atoms[~counted[atoms]], reason) for atoms, reason in effect.statistics)


def _first_reasons(notes: Iterable[tuple[Atoms, str]], group_of: Atoms) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for atoms, reason in notes:
        for group in np.unique(group_of[atoms]).tolist():
            if group >= 0:
                reasons.setdefault(group, reason)
    return reasons
