"""Segments: layers that share a precision, the unit in which a search switches it.

A segment takes part in a search like a group of one unit: width 1 is float, width 0 is int8. So
floors, penalties and plans need nothing of their own for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FLOAT, INT8 = 1, 0  # widths of a segment

Pattern = Mapping[str, int]  # segment -> FLOAT or INT8


@dataclass(frozen=True)
class Segment:
    """Layers that are all float or all int8.

    Attributes:
        name: no group has it.
        layers: as `Plan.precision` names them.
        shares: group -> the part of the group's weights that lie in these layers.
    """

    name: str
    layers: tuple[str, ...]
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return FLOAT


def flips(pattern: Pattern, order: Sequence[str]) -> list[dict[str, int]]:
    """The patterns next to one: each segment switched alone, and each end of the network switched
    whole, so that a border moves in one step. In a fixed order, without repeats."""
    found: dict[tuple[int, ...], dict[str, int]] = {}
    for place, name in enumerate(order):
        alone = {**pattern, name: FLOAT + INT8 - pattern[name]}
        ends = (
            {**pattern, **dict.fromkeys(part, value)}
            for part in (order[: place + 1], order[place:])
            for value in (FLOAT, INT8)
        )
        for flipped in (alone, *ends):
            found.setdefault(tuple(flipped[each] for each in order), flipped)
    found.pop(tuple(pattern[each] for each in order), None)
    return list(found.values())
