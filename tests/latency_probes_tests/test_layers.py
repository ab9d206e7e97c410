"""Per-layer times as one list."""

from latency_probes.runtimes.base import Layer
from latency_probes.runtimes.layers import typical_layers


def test_a_slow_first_call_does_not_count() -> None:
    times = [Layer("a", "Conv", 9000), *[Layer("a", "Conv", 10)] * 4]
    assert typical_layers(times, 5) == [Layer("a", "Conv", 10)]


def test_runs_of_a_layer_within_a_call_are_added_and_order_is_kept() -> None:
    times = [Layer("b", "Relu", 4), Layer("a", "Add", 2), Layer("b", "Relu", 4)] * 3
    assert typical_layers(times, 3) == [Layer("b", "Relu", 8), Layer("a", "Add", 2)]
