"""Per-layer times of several profiled calls as one list of layers."""

from collections.abc import Iterable, Sequence
from statistics import median

from latency_probes.runtimes.base import Layer

PROFILED_CALLS = 20


def typical_layers(times: Iterable[Layer], calls: int) -> Sequence[Layer]:
    """The time per call of each layer, in the order in which they first ran: the median of its
    runs, since first calls can take a hundred times as long.

    Args:
        times: one entry each time that a layer ran in all calls together.
    """
    runs: dict[tuple[str, str], list[int]] = {}
    for layer in times:
        runs.setdefault((layer.name, layer.op), []).append(layer.ns)
    return [
        Layer(name, op, round(median(found) * len(found) / calls))
        for (name, op), found in runs.items()
    ]
