"""Operators on space: pooling and resizing leave the channels as they are."""

from __future__ import annotations

from search.graph.call import Call, Outcome, Rule
from search.graph.labels import freeze, total


def over_last(count: int) -> Rule:
    """The rule of an operator that works on the last `count` dimensions, whole or by windows."""

    def rule(call: Call) -> Outcome:
        x = call.first
        effect = total(freeze(axis, f"{call.op} runs over its units") for axis in x.axes[-count:])
        return call.give((*x.axes[:-count], *(None,) * count), effect)

    return rule
