"""Widths and precisions in one search, on a synthetic device whose int8 kernels cost a border."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pytest

from search.explorer import Candidate, Explorer, Failed, Measured, Scored, SearchConfig
from search.explorer.segments import FLOAT, INT8, Segment, flips
from tests.search_tests.explorer_tests.simulation import (
    FLOORS,
    GROUPS,
    LAYERS,
    OVERHEAD,
    Device,
    _steps,
    drive,
    relax,
    scores,
    sensitivity,
)

FULL = {group.name: group.width for group in GROUPS}
NAMES = [f"layer{number}" for number in range(len(LAYERS))]
PAIRS = [tuple(NAMES[place : place + 2]) for place in range(0, len(NAMES), 2)]


def _shares(layers: Collection[str]) -> dict[str, float]:
    """Each group is spread evenly over the layers that have it."""
    own = {
        group: [n for n, pair in zip(NAMES, LAYERS, strict=True) if group in pair]
        for group in FULL
    }
    return {
        group: sum(name in layers for name in names) / len(names)
        for group, names in own.items()
        if set(names) & set(layers)
    }


SEGMENTS = tuple(Segment(f"precision of {pair[0]}", pair, _shares(pair)) for pair in PAIRS)


@dataclass
class Int8Device(Device):
    """A layer in int8 takes `speed` of its float time and a constant; a border costs that twice.

    Layers of the first stage take `first` of their float time.
    """

    speed: float = 0.35
    first: float = 0.35
    constant: float = 0.004
    rounding: float = 0.001
    supported: bool = True
    always: bool = False  # every layer is in int8, whatever the plan says

    def mixed(self, widths: Mapping[str, int], int8: Collection[str]) -> float:
        body, before = 0.0, False
        for name, (first, second) in zip(NAMES, LAYERS, strict=True):
            time = _steps(widths[first]) * _steps(widths[second]) / (FULL[first] * FULL[second])
            is_int8 = name in int8
            speed = self.first if first.startswith("stage0") else self.speed
            body += (speed * time + self.constant * 18) if is_int8 else time
            body += self.constant * 36 if is_int8 != before else 0.0
            before = is_int8
        return OVERHEAD + (1 - OVERHEAD) * body / len(LAYERS)

    def answer(self, candidate: Candidate) -> Measured | Scored | Failed:
        int8 = NAMES if self.always else list(candidate.plan.precision)
        if candidate.needs == "loss":
            self.losses += 1
            return Scored(self.loss(candidate.plan.kept) + self.rounding * len(int8), 0.02)
        if int8 and not self.supported:
            return Failed("unsupported_op", "no int8 here")
        self.latencies += 1
        scale = 1.0 + self.noise * (2.0 * self._uniform(candidate, "noise") - 1.0) * math.sqrt(3)
        ratio = self.mixed(candidate.plan.widths, int8) * scale
        return Measured(ratio, ratio * (1 - self.interval), ratio * (1 + self.interval))


def _explorer(
    device: Int8Device, budget: float, segments: tuple[Segment, ...] = SEGMENTS
) -> Explorer:
    config = SearchConfig(budget, beam_width=2, children=4, levels=3)
    return Explorer(
        config, GROUPS, scores(), FLOORS,
        relax=relax, sensitivity=sensitivity(device), segments=segments,
    )  # fmt: skip


def _loss(device: Int8Device, explorer: Explorer) -> float:
    best = explorer.finalists(1)[0]
    return device.loss(best.plan.kept) + device.rounding * len(best.plan.precision)


@pytest.mark.parametrize(("budget", "first"), [(0.45, 0.35), (0.35, 1.5)])
def test_widths_and_precisions_together_beat_either_alone(budget: float, first: float) -> None:
    device = Int8Device(first=first)
    both = drive(_explorer(device, budget), device)
    floats = drive(_explorer(device, budget, ()), device)
    best = both.finalists(1)[0]
    assert device.mixed(best.plan.widths, best.plan.precision) <= budget * 1.01
    assert best.plan.precision
    assert _loss(device, both) < _loss(device, floats)
    integers = Int8Device(first=first, always=True)
    config = SearchConfig(budget, beam_width=2, children=4, levels=3, floor_room=1.0)
    int8 = drive(
        Explorer(config, GROUPS, scores(), FLOORS, relax=relax, sensitivity=sensitivity(integers)),
        integers,
    )
    if int8.finalists(1):
        alone = device.loss(int8.finalists(1)[0].plan.kept) + device.rounding * len(NAMES)
        assert _loss(device, both) <= alone * 1.02


def test_dense_int8_ends_the_search_where_it_is_fast_and_good_enough() -> None:
    device = Int8Device()
    explorer = drive(_explorer(device, 0.6), device)
    best = explorer.finalists(1)[0]
    assert set(best.plan.precision) == set(NAMES)
    assert best.plan.widths == FULL
    assert explorer.answer is best
    assert device.latencies <= 4


def test_dense_int8_that_loses_accuracy_is_not_the_answer() -> None:
    device = Int8Device(rounding=0.05)
    explorer = drive(_explorer(device, 0.6), device)
    assert explorer.answer is None
    assert len(explorer.finalists(1)[0].plan.precision) < len(NAMES)


def test_int8_that_is_slower_loses_by_itself() -> None:
    device = Int8Device(speed=1.4, first=1.4)
    explorer = drive(_explorer(device, 0.5), device)
    assert not explorer.finalists(1)[0].plan.precision


def test_a_runtime_without_int8_is_searched_in_float() -> None:
    device = Int8Device(supported=False)
    explorer = drive(_explorer(device, 0.5), device)
    best = explorer.finalists(1)[0]
    assert best.ratio is not None
    assert best.ratio <= 0.5
    assert not best.plan.precision


def test_a_segment_that_costs_too_much_stays_float() -> None:
    device = Int8Device()
    floors = {**FLOORS, SEGMENTS[0].name: FLOAT}

    def firm(times: int) -> dict[str, int]:
        return {**relax(times), SEGMENTS[0].name: FLOAT}

    explorer = Explorer(
        SearchConfig(0.3, beam_width=2, children=4, levels=2), GROUPS, scores(), floors,
        relax=firm, sensitivity=sensitivity(device), segments=SEGMENTS,
    )  # fmt: skip
    drive(explorer, device)
    chosen = [
        n for n in explorer.nodes() if n.origin in ("knapsack", "precision", "exchange", "cut")
    ]
    assert chosen
    assert any(node.plan.precision for node in chosen)
    assert not any(set(PAIRS[0]) & set(node.plan.precision) for node in chosen)


def test_the_tree_depends_on_neither_order_nor_restarts() -> None:
    device = Int8Device()
    straight = drive(_explorer(device, 0.3), device)
    shuffled, source = _explorer(device, 0.3), random.Random(1)
    waiting: list[Candidate] = []
    while not shuffled.done:
        waiting += shuffled.ask()
        source.shuffle(waiting)
        for candidate in waiting[: source.randint(1, 5)]:
            shuffled.tell(candidate, device.answer(candidate))
            waiting.remove(candidate)
        if source.random() < 0.1:
            state = json.loads(json.dumps(shuffled.state()))
            shuffled = Explorer.restore(
                state, GROUPS, scores(), FLOORS, relax=relax, segments=SEGMENTS
            )
            waiting = shuffled.outstanding()
    assert shuffled.tree() == straight.tree()


def test_flips_switch_one_segment_or_one_end() -> None:
    order = ["a", "b", "c"]
    found = flips(dict.fromkeys(order, FLOAT), order)
    as_text = {"".join(str(pattern[name]) for name in order) for pattern in found}
    assert as_text == {"011", "101", "110", "001", "100", "000"}
    assert all(value in (FLOAT, INT8) for pattern in found for value in pattern.values())
