"""The uniformly thinner network: the simple answer that a search has to beat on the same device.

Every group keeps the same part p of its width, in sixteenths. The largest p within the budget is
found by halving, which takes latency to grow with p; it is scored as every candidate is, and wins
if it is better. Soft floors do not hold for it. It comes first: a search that is ended early has
something to hand back, and the prior four plans of whole models to learn from.
"""

from collections.abc import Sequence
from functools import partial
from math import lcm

from search.explorer.node import Node
from search.explorer.recall import Proposal
from search.explorer.rounds import RoundGenerator, measure
from search.explorer.segments import FLOAT
from search.explorer.staircase import aligned
from search.explorer.tree import Tree

PARTS = 16


def measure_uniform(tree: Tree) -> RoundGenerator[None]:
    """Halves the parts, four measurements, and has the largest one within the budget scored beside
    what follows."""
    low, high, best = 0, PARTS, None
    while high - low > 1:
        middle = (low + high) // 2
        found = tree.recall.get(f"uniform:{middle}", partial(_proposed, tree, middle))
        node = _added(tree, found)
        yield from measure([node])
        if node.meets(tree.config.budget) and node.fits:
            low, best = middle, node
        else:
            high = middle
    if best is not None:
        yield from measure([], score=[best])


def _added(tree: Tree, found: Sequence[Proposal]) -> Node:
    ((origin, widths),) = found
    return tree.add(widths, 0, tree.root, origin)


def _proposed(tree: Tree, sixteenths: int) -> Sequence[Proposal]:
    """Widths are rounded to eighths of a group, or to what the search keeps multiples of; blocks
    stay."""
    importance = tree.importance
    widths = importance.widths | importance.pattern(FLOAT)
    for name, width in importance.group_widths.items():
        if importance.min_widths[name] == 0:
            continue
        step = lcm(aligned(width), importance.steps[name])
        kept = round(sixteenths / PARTS * width / step) * step
        widths[name] = min(max(kept, importance.min_widths[name]), width)
    return [("uniform", widths)]
