"""Per-layer times of several profiled calls as one list of layers."""

from collections.abc import Iterable, Sequence

from latency_probes.runtimes.base import Layer

PROFILED_CALLS = 20


def mean_layers(times: Iterable[Layer], calls: int) -> Sequence[Layer]:
    """The mean time per call of each layer, in the order in which they first ran.

    Args:
        times: one entry each time that a layer ran in all calls together.
    """
    totals: dict[tuple[str, str], int] = {}
    for layer in times:
        key = layer.name, layer.op
        totals[key] = totals.get(key, 0) + layer.ns
    return [Layer(name, op, round(ns / calls)) for (name, op), ns in totals.items()]
