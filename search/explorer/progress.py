"""How far a search is: measurements still to come, and the best plan until now.

Reads the tree and the status, and changes neither.
"""

from collections.abc import Sequence
from typing import Any

from search.explorer.node import Node
from search.explorer.preparation import SearchStatus
from search.explorer.staircase import points_each
from search.explorer.tree import Tree

_LIKELY_REFINEMENTS = 1  # most of them bring nothing better after that


def remaining_measurements(tree: Tree, status: SearchStatus, waiting: int) -> int:
    """An estimate of the latency measurements still to come, for the time left.

    Args:
        tree: For the size of a level, and what is searched.
        status: The phase and the level of a search that is not finished.
        waiting: Latencies that were issued and have no outcome yet.
    """
    config = tree.config
    levels = len(status.targets) or config.levels
    rounds = levels - max(status.level, 1) + min(config.refinements, _LIKELY_REFINEMENTS)
    to_come = rounds * config.beam_width * config.children
    if status.phase != "levels":
        to_come += config.children + levels * len(tree.roots())
    if status.phase in ("feasibility", "staircases"):
        to_come += max(_stairs_left(tree, status) - _answered(tree, status) - waiting, 0)
    return waiting + to_come


def _stairs_left(tree: Tree, status: SearchStatus) -> int:
    """Widths and segments still to be measured alone, in float and in int8."""
    importance = tree.importance
    points = points_each(tree.config.staircase_points, len(importance.group_widths))
    left = sum(
        max((1 if name in importance.segments else points) - len(status.stairs.get(name, {})), 0)
        for name in importance.widths
    )
    if importance.segments:
        left += sum(not status.int8_stairs.get(name) for name in importance.widths)
    return left


def _answered(tree: Tree, status: SearchStatus) -> int:
    """Stairs whose ratio has come since the last barrier: the status does not hold them yet."""
    nodes = [node for node in tree.nodes.values() if node.origin == "stair"]
    known = sum(node.ratio is not None for node in nodes)
    held = [*status.stairs.values(), *status.int8_stairs.values()]
    return max(known - sum(map(len, held)), 0)


def best_so_far(tree: Tree, finalists: Sequence[Node]) -> dict[str, Any] | None:
    """The best scored node as a JSON object: digest, level, ratio and loss.

    Args:
        tree: Its kept nodes count while no finalist has a loss; the fastest of them is taken.
        finalists: Nodes within the budget, best first.
    """
    node = finalists[0] if finalists and finalists[0].loss is not None else None
    if node is None:
        kept = [row for row in tree.nodes.values() if row.kept and row.loss is not None]
        node = min(kept, key=lambda row: (row.ratio or 1.0, row.rank()), default=None)
    if node is None:
        return None
    return {"digest": node.digest, "level": node.level, "ratio": node.ratio, "loss": node.loss}
