"""Which widths a group may have where channels must be a multiple. Knows no torch."""

from __future__ import annotations

from math import ceil, gcd
from typing import Protocol


class Widths(Protocol):
    """The part of a `Group` that its allowed widths follow from."""

    @property
    def width(self) -> int: ...
    @property
    def min_width(self) -> int: ...
    @property
    def channels(self) -> int: ...


def step_of(group: Widths, multiple: int) -> int:
    """Units in steps of which a group may be cut, so that its channels are a multiple.

    A unit of several channels (a head, a group of a convolution) counts as so many.
    """
    return multiple // gcd(multiple, group.channels)


def narrowest(group: Widths, multiple: int) -> int:
    """The smallest width that a group may have: its `min_width`, rounded up to a multiple; all of
    it where there is none. A block can go whatever the multiple is."""
    step = step_of(group, multiple)
    return min(group.width, ceil(group.min_width / step) * step)
