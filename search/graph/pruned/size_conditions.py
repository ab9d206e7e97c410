"""Conditions on the sizes of inputs, as torch.export writes them: Python over `L['x'].size()`, or
`L['rest'][0].size()` for those of `*rest`, which are named `rest[0]`.

It knows no graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

SizesByName: TypeAlias = Mapping[str, tuple[int, ...]]

_SIZE = re.compile(r"L\['(\w+)'\]((?:\[\d+\])?)\.size\(\)")
_GLOBALS = {"math": math, "max": max, "min": min, "__builtins__": {}}


class SizeConditions:
    """Tells whether sizes fulfil all conditions; copies share it, and it can be pickled.

    Args:
        conditions: expressions of sizes alone, see `are_plain`.
    """

    def __init__(self, conditions: Sequence[str]) -> None:
        self._conditions = tuple(conditions)
        self.hold: Callable[[SizesByName], bool] = _compiled(self._conditions)

    def __deepcopy__(self, memo: object) -> SizeConditions:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return SizeConditions, (self._conditions,)


def are_plain(conditions: Sequence[str]) -> bool:
    """Whether nothing but sizes of inputs by name is in conditions."""
    return not any("L[" in _SIZE.sub("", each) for each in conditions)


def _compiled(conditions: Sequence[str]) -> Callable[[SizesByName], bool]:
    """One function, so that a compiler can trace it."""
    sizes = [_SIZE.sub(r"sizes['\1\2']", each) for each in conditions]
    body = " and ".join(f"bool({each})" for each in sizes) or "True"
    names: dict[str, Any] = {**_GLOBALS, "bool": bool}
    exec(f"def hold(sizes):\n    return {body}\n", names)
    made: Callable[[SizesByName], bool] = names["hold"]
    return made
