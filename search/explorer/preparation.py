"""Before the levels: can the budget be met, which widths are fast, which floors leave room?

Generators of rounds (see `rounds`); they read latencies only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from search.explorer.prior import LatencyPrior
from search.explorer.rounds import RoundGenerator, measure
from search.explorer.space import Space
from search.explorer.staircase import (
    Stairs,
    allowed_widths,
    bisection_width,
    coarse_widths,
)
from search.explorer.tree import Node, Tree

Relax = Callable[[int], Mapping[str, int]]

_MOST_DOUBLINGS = 16
_HOPELESS = 1.1  # an optimistic prediction this far above needs no measurement


@dataclass
class SearchStatus:
    """What the search has come to, for progress and results."""

    phase: str = "feasibility"
    level: int = 0
    floors_doubled: int = 0
    floors: dict[str, int] = field(default_factory=dict)
    infeasible: dict[str, Any] | None = None
    stairs: dict[str, Stairs] = field(default_factory=dict)
    extremes: dict[str, Node] = field(default_factory=dict)  # minimum and fastest


def prepare(
    tree: Tree, status: SearchStatus, floors: Mapping[str, int], relax: Relax | None
) -> RoundGenerator[Space | None]:
    """Feasibility, staircases, floors, in this order; None when the budget cannot be met."""
    budget = tree.config.budget
    minimum = tree.add(_minimum_widths(tree), 0, tree.root, "minimum")
    yield from measure([minimum], score=[tree.root])
    status.phase = "staircases"
    yield from climb(tree, status.stairs)
    space = _space(tree, status.stairs, _minimum_widths(tree))
    fastest = tree.add(space.fastest(), 0, tree.root, "fastest")
    yield from measure([fastest])
    status.extremes = {"minimum": minimum, "fastest": fastest}
    ratios = [node.ratio for node in (minimum, fastest) if node.ratio is not None]
    if len(ratios) == 2 and min(ratios) > budget:
        declare_infeasible(tree, status)
        return None
    if not fastest.meets(budget * tree.config.window[1]):
        yield from _measure_least_widths(tree, status.stairs)
    status.phase = "floors"
    return (yield from fit_floors(tree, status, floors, relax))


def climb(tree: Tree, stairs: dict[str, Stairs]) -> RoundGenerator[None]:
    """Measures each group alone: multiples of 8 first, then around the largest jumps.

    Args:
        tree: For the widths and the settings.
        stairs: Known ratios per group, added to; a group with enough points costs nothing.
    """
    widths, points = tree.importance.widths, tree.config.staircase_points
    tried = {name: set(stairs.setdefault(name, {})) for name in widths}
    wanted = {
        name: []
        if stairs[name]
        else coarse_widths(
            width, points, tree.importance.min_widths[name], tree.importance.steps[name]
        )
        for name, width in widths.items()
    }
    while True:
        for name, width in widths.items():
            if not wanted[name] and len(tried[name]) < points:
                step = tree.importance.steps[name]
                middle = bisection_width(width, stairs[name], tried[name], step)
                wanted[name] = [] if middle is None else [middle]
        if not any(wanted.values()):
            return
        yield from _measure_alone(tree, stairs, wanted)
        for name in widths:
            tried[name].update(wanted[name])
            wanted[name] = []


def _measure_alone(
    tree: Tree, stairs: dict[str, Stairs], wanted: Mapping[str, list[int]]
) -> RoundGenerator[None]:
    nodes: dict[tuple[str, int], Node] = {}
    for name, widths in wanted.items():
        for width in widths:
            cut = {**tree.importance.widths, name: width}
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
    doubled, fastest = 0, _space(tree, status.stairs, least).fastest()
    current = _clamp(floors, least, tree.importance.widths)
    while True:
        space = _space(tree, status.stairs, current)
        if space.fastest() == fastest or doubled == _MOST_DOUBLINGS:
            break
        if (yield from _leaves_room(tree, space)):
            break
        doubled += 1
        softer = relax(doubled) if relax else _halved(floors, doubled)
        current = _clamp(softer, least, tree.importance.widths)
    if doubled == _MOST_DOUBLINGS:
        space = _space(tree, status.stairs, least)
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


def _space(tree: Tree, stairs: Mapping[str, Stairs], floors: Mapping[str, int]) -> Space:
    gain = tree.config.stair_gain
    allowed = {
        name: allowed_widths(width, stairs[name], gain, tree.importance.steps[name])
        for name, width in tree.importance.widths.items()
    }
    return Space.above_floors(LatencyPrior(allowed), tree.importance, floors)


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
