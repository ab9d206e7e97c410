"""Operators on space: pooling and resizing leave the channels as they are."""

from __future__ import annotations

from search.graph.dependency.labels import freeze, total
from search.graph.dependency.op_call import OpCall, Outcome, PropagationRule


def over_last(count: int) -> PropagationRule:
    """The rule of an operator that works on the last `count` dimensions, whole or by windows."""

    def rule(call: OpCall) -> Outcome:
        x = call.first
        effect = total(freeze(axis, f"{call.op} runs over its units") for axis in x.axes[-count:])
        return call.give((*x.axes[:-count], *(None,) * count), effect)

    return rule
