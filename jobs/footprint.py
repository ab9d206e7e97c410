"""What a model takes as a function of its widths, read from its report: parameters and memory.

`search.graph.footprint` writes it; it is read here without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

from jobs.amounts import BYTES

Size = Sequence[Any]  # [constant, per example, axes], each axis [always, [[group, indices], …]]
Widths = Sequence[int]  # of every group, in the order of the report


@dataclass(frozen=True)
class Footprint:
    """The footprint of a model and its groups.

    Attributes:
        groups: as the report describes them.
        modules: the names of all modules.
        parameters: name -> size.
        frozen: parameters that the model's own code freezes.
        values: sizes of what its operators make.
        moments: places of values that are alive together; None where that is not known.
    """

    groups: Sequence[Mapping[str, Any]]
    modules: Sequence[str]
    parameters: Mapping[str, Size]
    frozen: frozenset[str]
    values: Sequence[Sequence[Size]]
    moments: Sequence[Sequence[int]] | None

    @classmethod
    def of(cls, report: Mapping[str, Any] | None) -> Self | None:
        """That of a model's report; None where an earlier version wrote it."""
        known = (report or {}).get("footprint")
        if report is None or known is None:
            return None
        return cls(
            groups=report["groups"],
            modules=known["modules"],
            parameters=known["parameters"],
            frozen=frozenset(known["frozen"]),
            values=known["values"],
            moments=known["moments"],
        )

    def count(self, widths: Widths) -> int:
        """How many parameters are left at these widths."""
        return sum(self._at(size, widths) for size in self.parameters.values())

    def memory_bytes(self, widths: Widths, batch_size: int) -> int:
        """What one call holds at once; as `PruningGraph.memory_bytes` of the library."""
        sizes = [
            sum(self._at(size, widths) * (batch_size if size[1] else 1) for size in value)
            for value in self.values
        ]
        peak = max((sum(sizes[n] for n in alive) for alive in self.moments or ()), default=0)
        return BYTES * (self.count(widths) + peak)

    @property
    def dense_widths(self) -> list[int]:
        """Those of the model itself."""
        return [int(group["width"]) for group in self.groups]

    def memory_mb(self, widths: Widths, batch_size: int) -> float | None:
        """The same in 10⁶ bytes; None where it is not known."""
        return None if self.moments is None else self.memory_bytes(widths, batch_size) / 1e6

    def tensors_of(self, number: int) -> list[str]:
        """The tensors whose channels a group removes; of a block, those that go with it."""
        group = self.groups[number]
        if group["kind"] != "block":
            return [each["tensor"] for each in group["members"] if each["role"] != "consumer"]
        return [
            name for name, size in self.parameters.items() if [0, [[number, 1]]] in list(size[2])
        ]

    def _at(self, size: Size, widths: Widths) -> int:
        constant, _, axes = size
        lengths = (
            always + sum(n * widths[g] // self.groups[g]["width"] for g, n in owned)
            for always, owned in axes
        )
        return int(constant * math.prod(lengths))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a module, or one that holds it, has one of the names or fits one of the patterns."""
    path = name.split(".")
    holders = [".".join(path[:length]) for length in range(1, len(path) + 1)]
    return any(fnmatchcase(each, pattern) for pattern in patterns for each in holders)
