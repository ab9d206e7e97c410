"""Before the levels: can the budget be met, which widths are fast, which floors leave room?

Generators of rounds (see `rounds`); they read latencies only.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from search.explorer.importance import Importance
from search.explorer.node import Node
from search.explorer.prior import Int8Stairs, LatencyPrior
from search.explorer.rounds import RoundGenerator, measure, score
from search.explorer.segments import FLOAT, INT8
from search.explorer.space import Space
from search.explorer.staircase import (
    Stairs,
    allowed_widths,
    bisection_width,
    coarse_widths,
    filled,
    points_each,
)
from search.explorer.tree import Tree
from search.explorer.uniform import measure_uniform

Relax = Callable[[int], Mapping[str, int]]

_MOST_DOUBLINGS = 16
_HOPELESS = 1.1  # an optimistic prediction this far above needs no measurement


class Pace:
    """Whether the search goes to its budget by the shortest way, because its time is short.

    That is asked at fixed points of the search. Which of them was the first to hear of it belongs
    to the saved state, so that a replay turns off there too.
    """

    def __init__(self) -> None:
        self.hurried_from: int | None = None
        self._looks = 0

    def hurry(self) -> bool:
        """From the next point on; whether it was in no hurry before."""
        if self.hurried_from is not None:
            return False
        self.hurried_from = self._looks
        return True

    def is_hurried(self) -> bool:
        """One of the points."""
        self._looks += 1
        return self.hurried_from is not None and self._looks > self.hurried_from


@dataclass
class SearchStatus:
    """What the search has come to, for progress and results."""

    phase: str = "feasibility"
    level: int = 0
    targets: tuple[float, ...] = ()  # of the levels, once they begin
    floors_doubled: int = 0
    floors: dict[str, int] = field(default_factory=dict)
    infeasible: dict[str, Any] | None = None
    stairs: dict[str, Stairs] = field(default_factory=dict)
    int8_stairs: dict[str, Stairs] = field(default_factory=dict)  # with all segments in int8
    extremes: dict[str, Node] = field(default_factory=dict)  # minimum and fastest
    answer: Node | None = None  # the dense model in int8, where that ends the search
    pace: Pace = field(default_factory=Pace)


def prepare(
    tree: Tree, status: SearchStatus, floors: Mapping[str, int], relax: Relax | None
) -> RoundGenerator[Space | None]:
    """Feasibility, the uniform network, staircases, floors, in this order; None when the budget
    cannot be met, or when the dense model in int8 is the answer."""
    budget = tree.config.budget
    minima = [
        tree.add({**_minimum_widths(tree), **pattern}, 0, tree.root, "minimum")
        for pattern in tree.roots()
    ]
    int8 = tree.int8_root()
    yield from measure([*minima, *([int8] if int8 else [])], score=[tree.root])
    if int8 is not None and (yield from _is_answer(tree, int8)):
        status.answer = int8
        return None
    if tree.config.uniform and any(node.meets(budget) for node in minima):
        yield from measure_uniform(tree)
    status.phase = "staircases"
    yield from climb(tree, status.stairs, status.pace)
    is_hurried = status.pace.is_hurried()
    if int8 is not None and int8.ratio is not None and not is_hurried:
        yield from climb_in_int8(tree, status, int8.ratio)
    space = _space(tree, status, _minimum_widths(tree))
    fastest = tree.add(space.fastest(), 0, tree.root, "fastest")
    yield from measure([fastest])
    minimum = min(minima, key=lambda node: (node.ratio or math.inf, node.digest))
    status.extremes = {"minimum": minimum, "fastest": fastest}
    ratios = [node.ratio for node in (minimum, fastest) if node.ratio is not None]
    if len(ratios) == 2 and min(ratios) > budget:
        declare_infeasible(tree, status)
        return None
    if not fastest.meets(budget * tree.config.window[1]):
        yield from _measure_least_widths(tree, status.stairs)
    status.phase = "floors"
    return (yield from fit_floors(tree, status, floors, relax))


def _is_answer(tree: Tree, int8: Node) -> RoundGenerator[bool]:
    """Whether the dense model in int8 meets the budget and is as good as in float: its loss is
    within a standard error of the dense one."""
    if int8.ratio_high is None or int8.ratio_high > tree.config.budget or not int8.fits:
        return False
    yield from score([int8])
    dense = tree.root
    if int8.loss is None or dense.loss is None:
        return False
    int8.kept = int8.loss <= dense.loss + dense.standard_error
    return int8.kept


def climb_in_int8(tree: Tree, status: SearchStatus, ratio: float) -> RoundGenerator[None]:
    """Measures the narrowest stair of each group, and each segment as float, with all else in
    int8. What the other stairs save has the shape that it has in float (see `filled`)."""
    importance, gain = tree.importance, tree.config.stair_gain
    base = {**importance.widths, **importance.pattern(INT8)}
    wanted = {}
    for name, width in importance.widths.items():
        known = status.int8_stairs.setdefault(name, {})
        stairs = allowed_widths(width, status.stairs[name], gain, importance.steps[name])
        narrowest = FLOAT if name in importance.segments else min(stairs)
        wanted[name] = [] if narrowest in known or narrowest == base[name] else [narrowest]
    yield from _measure_alone(tree, status.int8_stairs, wanted, base)
    for name, width in importance.group_widths.items():
        status.int8_stairs[name][width] = ratio


def climb(tree: Tree, stairs: dict[str, Stairs], pace: Pace) -> RoundGenerator[None]:
    """Measures each group alone, a width of each at a time: multiples of 8 from the middle
    outwards, then around the largest jumps.

    Args:
        tree: For the widths and the settings.
        stairs: Known ratios per group, added to; a group with enough points costs nothing.
        pace: In a hurry one width of each group is enough.
    """
    widths = tree.importance.widths
    points = points_each(tree.config.staircase_points, len(tree.importance.group_widths))
    tried = {name: set(stairs.setdefault(name, {})) for name in widths}
    coarse = {
        name: []
        if stairs[name]
        else coarse_widths(
            width, points, tree.importance.min_widths[name], tree.importance.steps[name]
        )
        for name, width in widths.items()
    }

    def next_width(name: str) -> int | None:
        if coarse[name]:
            return coarse[name].pop(0)
        if len(tried[name]) >= points:
            return None
        step = tree.importance.steps[name]
        return bisection_width(widths[name], stairs[name], tried[name], step)

    while True:
        wanted = {name: next_width(name) for name in widths}
        asked = {name: [] if width is None else [width] for name, width in wanted.items()}
        if not any(asked.values()):
            return
        yield from _measure_alone(tree, stairs, asked)
        for name in widths:
            tried[name].update(asked[name])
        if pace.is_hurried():
            return


def _measure_alone(
    tree: Tree,
    stairs: dict[str, Stairs],
    wanted: Mapping[str, list[int]],
    base: Mapping[str, int] | None = None,
) -> RoundGenerator[None]:
    """One group or segment cut at a time; the others as in `base`, by default dense and float."""
    nodes: dict[tuple[str, int], Node] = {}
    for name, widths in wanted.items():
        for width in widths:
            cut = {**(base or tree.importance.widths), name: width}
            nodes[name, width] = tree.add(cut, 0, tree.root, "stair")
    yield from measure(nodes.values())
    for (name, width), node in nodes.items():
        if node.ratio is not None:
            stairs[name][width] = node.ratio


def _measure_least_widths(tree: Tree, stairs: dict[str, Stairs]) -> RoundGenerator[None]:
    """For stairs that are too slow for the budget although the minimum meets it: go lower."""
    least, widths = _minimum_widths(tree), tree.importance.widths
    wanted = {
        name: [] if least[name] in rows or least[name] == widths[name] else [least[name]]
        for name, rows in stairs.items()
    }
    yield from _measure_alone(tree, stairs, wanted)


def fit_floors(
    tree: Tree, status: SearchStatus, floors: Mapping[str, int], relax: Relax | None
) -> RoundGenerator[Space]:
    """Doubles the tolerance until the fastest plan above the floors is well within the budget."""
    least = _minimum_widths(tree)
    doubled, fastest = 0, _space(tree, status, least).fastest()
    current = _clamp(floors, least, tree.importance.widths)
    while True:
        space = _space(tree, status, current)
        if space.fastest() == fastest or doubled == _MOST_DOUBLINGS:
            break
        if (yield from _leaves_room(tree, space)):
            break
        doubled += 1
        softer = relax(doubled) if relax else _halved(floors, doubled)
        current = _clamp(softer, least, tree.importance.widths)
    if doubled == _MOST_DOUBLINGS:
        space = _space(tree, status, least)
    status.floors_doubled, status.floors = doubled, dict(current)
    return space


def _leaves_room(tree: Tree, space: Space) -> RoundGenerator[bool]:
    wanted = tree.config.budget * tree.config.floor_room
    if space.prior.additive(space.fastest()) > _HOPELESS * wanted:
        return False
    node = tree.add(space.fastest(), 0, tree.root, "floors")
    yield from measure([node])
    ratio = space.prior.ratio(node.widths) if node.ratio is None else node.ratio
    return ratio <= wanted


def _space(tree: Tree, status: SearchStatus, floors: Mapping[str, int]) -> Space:
    importance, stairs, gain = tree.importance, status.stairs, tree.config.stair_gain
    allowed = {
        name: allowed_widths(width, stairs[name], gain, importance.steps[name])
        for name, width in importance.group_widths.items()
    }
    int8 = tree.int8_root()
    if int8 is None or int8.ratio is None:  # of a runtime without int8, float alone is searched
        float_only = dict.fromkeys(importance.segments, FLOAT)
        allowed |= {name: {FLOAT: 1.0} for name in float_only}
        return Space.above_floors(LatencyPrior(allowed), importance, {**floors, **float_only})
    for name in importance.segments:
        allowed[name] = {FLOAT: 1.0, INT8: 1.0 - _saved(name, status, int8.ratio)}
    in_int8 = {
        name: filled(allowed[name], status.int8_stairs.get(name, {}), int8.ratio)
        for name in importance.group_widths
    }
    known = Int8Stairs(
        int8.ratio,
        in_int8,
        tuple(importance.segments),
        _shares(importance),
    )
    return Space.above_floors(LatencyPrior(allowed, known), importance, floors, gain)


def _saved(segment: str, status: SearchStatus, int8_ratio: float) -> float:
    """What int8 saves in a segment: alone, and where all others are in int8, on average. Alone it
    pays for both of its borders, among others for none."""
    alone = status.stairs[segment].get(INT8)
    as_float = status.int8_stairs.get(segment, {}).get(FLOAT)
    saved = [1.0 - alone] if alone is not None else []
    saved += [as_float - int8_ratio] if as_float is not None else []
    return sum(saved) / len(saved) if saved else 0.0


def _shares(importance: Importance) -> dict[str, dict[str, float]]:
    """Group -> segment -> the part of the group that lies there."""
    shares: dict[str, dict[str, float]] = {}
    for segment in importance.segments.values():
        for group, part in segment.shares.items():
            shares.setdefault(group, {})[segment.name] = part
    return shares


def _minimum_widths(tree: Tree) -> dict[str, int]:
    widths, steps = tree.importance.widths, tree.importance.steps
    least = {
        name: max(tree.config.min_width, width) if width else 0
        for name, width in tree.importance.min_widths.items()
    }
    return {
        name: min(widths[name], -(-least[name] // steps[name]) * steps[name])
        for name in sorted(widths)
    }


def _clamp(
    floors: Mapping[str, int], least: Mapping[str, int], widths: Mapping[str, int]
) -> dict[str, int]:
    return {
        name: min(max(int(floors.get(name, low)), low), widths[name])
        for name, low in least.items()
    }


def _halved(floors: Mapping[str, int], times: int) -> dict[str, int]:
    return {name: int(floor) >> times for name, floor in floors.items()}


def declare_infeasible(tree: Tree, status: SearchStatus) -> None:
    """Records why no plan meets the budget, with the measured ratios (None where that failed).

    Keys: budget, minimum_ratio, fastest_stairs_ratio, fastest_ratio (of all plans), errors,
    message.
    """
    budget, minimum, fastest = tree.config.budget, *status.extremes.values()
    ratios = [node.ratio for node in tree.measured() if node.ratio is not None]
    status.phase = "infeasible"
    status.infeasible = {
        "budget": budget,
        "minimum_ratio": minimum.ratio,
        "fastest_stairs_ratio": fastest.ratio,
        "fastest_ratio": min(ratios),
        "errors": {
            name: node.error for name, node in status.extremes.items() if node.ratio is None
        },
        "message": (
            f"budget must be a ratio that a pruned model can reach, but got {budget:.4g}: the "
            f"plan at the minimum widths took {_took(minimum.ratio)}, the plan at the fastest "
            f"stairs {_took(fastest.ratio)}"
        ),
    }


def _took(ratio: float | None) -> str:
    return "an unknown time" if ratio is None else f"{ratio:.4g} of dense"
