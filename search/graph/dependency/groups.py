"""What the analysis of a model yields: groups and their members. It knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Role = Literal["producer", "consumer", "follower"]
Kind = Literal["channels", "heads", "hidden", "block"]
Status = Literal["prunable", "approximate", "frozen"]
Form = Literal["module", "graph"]


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor that shrinks with a group.

    Attributes:
        tensor: parameter or buffer, as `model.state_dict()` names it.
        dim: the dimension.
        role: producer rows create a unit, consumer columns read it, a follower holds one value
            or one slice per unit (batch norm, bias, depthwise convolution).
        indices: unit -> its indices along `dim`; one tuple per unit of the group.
    """

    tensor: str
    dim: int
    role: Role
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Units of several tensors that can only be removed together.

    A block is one unit of no tensor: it stays, or its shortcut takes its place.

    Attributes:
        name: the module of the first producer, e.g. "blocks.0.conv1"; of a block the module that
            holds its layers, e.g. "blocks.0".
        width: the number of units.
        status: `approximate` groups can be pruned, but a norm or mean runs over them.
        reason: why the group is frozen or approximate, for a user to read; else empty.
        form: what a model that lost units of this group is: of the user's class, or a
            `PrunedGraph`, where the model's own forward holds constants that do not follow.
        min_width: units that must stay; none of a block, two where the model does not run with one
            (a `squeeze()`).
    """

    name: str
    width: int
    kind: Kind
    members: tuple[Member, ...]
    status: Status
    reason: str = ""
    form: Form = "module"
    min_width: int = 1

    @cached_property
    def channels(self) -> int:
        """How many channels a unit is: more than one where it is a head or a group of a
        convolution, say. Of several producers the fewest."""
        counts = (
            len(member.indices[0]) or 1 for member in self.members if member.role == "producer"
        )
        return min(counts, default=1)

    @cached_property
    def required_any_of(self) -> tuple[tuple[int, ...], ...]:
        """Sets of units of which one must stay each: a tensor that holds only these would lose
        all its indices. None where every tensor holds every unit."""
        held = (
            tuple(unit for unit, indices in enumerate(member.indices) if indices)
            for member in self.members
        )
        return tuple(dict.fromkeys(units for units in held if len(units) < self.width))
