"""What a search has proposed, in order, so that a replay need not work it out again.

The search is a function of its outcomes, so the proposals of a replay are those of before. Each is
kept under a name; from the first name that differs on, everything is worked out anew.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Proposal = tuple[str, dict[str, int]]  # origin, widths


class Recall:
    """Proposals made so far, and those that a replay still finds.

    Args:
        groups: Names of the searched groups and segments.
    """

    def __init__(self, groups: Iterable[str]) -> None:
        self._groups = sorted(groups)
        self._made: list[list[Any]] = []
        self._left: list[Sequence[Any]] = []

    def __len__(self) -> int:
        return len(self._made)

    def expect(self, saved: Sequence[Sequence[Any]]) -> None:
        """Takes over what `to_json` gave, for a replay of the same outcomes."""
        self._left = list(reversed(saved))

    def get(self, name: str, make: Callable[[], Sequence[Proposal]]) -> list[Proposal]:
        """The proposals of this step: as they were, or made now."""
        if self._left and self._left[-1][0] == name:
            step = list(self._left.pop())
        else:
            self._left.clear()
            step = [name, [[origin, self._row(widths)] for origin, widths in make()]]
        self._made.append(step)
        return [(origin, self._widths(row)) for origin, row in step[1]]

    def to_json(self) -> list[list[Any]]:
        """Name of each step, and its proposals: origin, and widths by sorted group."""
        return list(self._made)

    def _row(self, widths: Mapping[str, int]) -> list[int]:
        return [int(widths[name]) for name in self._groups]

    def _widths(self, row: Sequence[int]) -> dict[str, int]:
        return dict(zip(self._groups, row, strict=True))
