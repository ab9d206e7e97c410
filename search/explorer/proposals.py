"""Children of a frontier node: plans predicted to reach the next target. Measures nothing.

Four kinds: (a) the knapsack over all groups, exact and with perturbed penalties for diversity;
(b) cuts of one group; (c) exchanges, which give one group a stair back and take another's; (d)
segments switched to the other precision, with the widths that are best then.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, permutations

import numpy as np

from search.explorer.config import SearchConfig
from search.explorer.node import Node
from search.explorer.recall import Proposal
from search.explorer.segments import flips
from search.explorer.space import Space, Widths, anchored

_PERTURBED = 4  # tries per wanted perturbed child: many draws give a plan seen before


def propose(
    space: Space, parent: Node, target: float, config: SearchConfig, seen: set[tuple[int, ...]]
) -> list[Proposal]:
    """At most K distinct children of a node, predicted to reach `target`.

    Args:
        space: Allowed widths and the prior.
        parent: The frontier node.
        target: Ratio to reach.
        config: For K, the kinds and the seed.
        seen: Widths (in sorted group order) that are not to be proposed again; added to.
    """

    predict = anchored(space, parent.sample) if parent.sample else space.prior.ratio
    whole, space = space, space.under(parent.pattern)
    best = space.cheapest(target, predict, most=parent.widths)
    makers: dict[str, Iterator[Proposal]] = {
        "precision": _switches(whole, parent, target, predict),
    }
    if best is None:
        return _take(["precision"] * config.children, makers, config.children, seen)
    makers |= {
        "knapsack": chain(
            [("knapsack", best)],
            _perturbed(space, parent, target, config, predict, most=parent.widths),
        ),
        "cut": _cuts(space, parent, target, predict),
        "exchange": _exchanges(space, best, target, predict),
    }
    kinds = _kinds(config, whole)
    spare = [kind for kind in kinds for _ in range(config.children)]
    order = _alternate(kinds, config.children) + spare
    taken = _take(order, makers, config.children, seen)
    if taken or parent.meets(target):
        return taken
    return _take(["knapsack"], makers, 1, seen)  # no cut of one group gets there


def refined(
    space: Space, parent: Node, target: float, config: SearchConfig, seen: set[tuple[int, ...]]
) -> list[Proposal]:
    """At most K distinct neighbours of a node that is at its target: exchanges around it, other
    knapsacks of as much latency, and switches of precision. Widths may grow; see `propose`."""
    predict = anchored(space, parent.sample) if parent.sample else space.prior.ratio
    whole, space = space, space.under(parent.pattern)
    best = space.cheapest(target, predict)
    makers: dict[str, Iterator[Proposal]] = {
        "exchange": _exchanges(space, parent.widths, target, predict),
        "knapsack": chain(
            [("knapsack", best)] if best else [],
            _perturbed(space, parent, target, config, predict, most=None),
        ),
        "precision": _switches(whole, parent, target, predict),
    }
    kinds = list(makers) if whole.importance.segments else ["exchange", "knapsack"]
    spare = [kind for kind in kinds for _ in range(config.children)]
    return _take(_alternate(kinds, config.children) + spare, makers, config.children, seen)


def _kinds(config: SearchConfig, space: Space) -> list[str]:
    """As set; where precision is searched, it comes between any two of the others."""
    if not space.importance.segments:
        return list(config.proposals)
    first, *others = config.proposals
    return [first, *chain.from_iterable(("precision", kind) for kind in others or ["precision"])]


def _alternate(kinds: Sequence[str], count: int) -> list[str]:
    """Half of the places for the first kind, the rest shared by the others in turn."""
    first, *others = kinds
    places = [first] * (count - count // 2 if others else count)
    return places + [others[index % len(others)] for index in range(count - len(places))]


def _take(
    order: Sequence[str],
    makers: Mapping[str, Iterator[Proposal]],
    count: int,
    seen: set[tuple[int, ...]],
) -> list[Proposal]:
    taken: list[Proposal] = []
    for kind in order:
        if len(taken) == count:
            break
        for origin, widths in makers[kind]:
            key = widths_key(widths)
            if key not in seen:
                seen.add(key)
                taken.append((origin, widths))
                break
    return taken


def widths_key(widths: Widths) -> tuple[int, ...]:
    """Widths in sorted group order."""
    return tuple(widths[name] for name in sorted(widths))


def _perturbed(
    space: Space,
    parent: Node,
    target: float,
    config: SearchConfig,
    predict: Callable[[Widths], float],
    most: Widths | None,
) -> Iterator[Proposal]:
    """Knapsacks under penalties that are wrong by a seeded factor per group, none of which gets
    wider than `most`."""
    material = f"{config.seed}:{parent.digest}:{target!r}".encode()
    random = np.random.default_rng(list(hashlib.sha256(material).digest()))
    for _ in range(_PERTURBED * config.children):
        noise = random.standard_normal(len(space.allowed_widths)) * config.perturbation
        weights = dict(zip(space.allowed_widths, np.exp(noise).tolist(), strict=True))
        widths = space.cheapest(target, predict, most=most, weights=weights)
        if widths is not None:
            yield "perturbed", widths


def _cuts(
    space: Space, parent: Node, target: float, predict: Callable[[Widths], float]
) -> Iterator[Proposal]:
    """For each group that reaches the target alone, its widest such stair; cheapest first."""
    cuts = []
    for name, widths in space.allowed_widths.items():
        for width in widths:
            cut = {**parent.widths, name: width}
            if width < parent.widths[name] and space.reaches(cut, target, predict):
                cuts.append((space.importance.total(cut), name, cut))
                break
    for _, _, cut in sorted(cuts, key=lambda item: item[:2]):
        yield "cut", cut


def _switches(
    space: Space, parent: Node, target: float, predict: Callable[[Widths], float]
) -> Iterator[Proposal]:
    """The parent's precisions but for one segment or one end of the network; the widths are chosen
    anew, wider ones among them. Cheapest first."""
    order = [name for name in space.importance.segments if len(space.allowed_widths[name]) > 1]
    found = []
    for pattern in flips(parent.pattern, order) if order else ():
        widths = space.under(pattern).cheapest(target, predict)
        if widths is not None:
            found.append((space.importance.total(widths), widths_key(widths), widths))
    for *_, widths in sorted(found, key=lambda item: item[:2]):
        yield "precision", widths


def _exchanges(
    space: Space, best: Widths, target: float, predict: Callable[[Widths], float]
) -> Iterator[Proposal]:
    """One group a stair up, another a stair down, still reaching the target; cheapest first."""
    exchanges = []
    for grown, cut in permutations(space.allowed_widths, 2):
        up, down = space.wider(grown, best[grown]), space.narrower(cut, best[cut])
        if up is None or down is None:
            continue
        widths = {**best, grown: up, cut: down}
        if space.reaches(widths, target, predict):
            exchanges.append((space.importance.total(widths), grown, cut, widths))
    for *_, widths in sorted(exchanges, key=lambda item: item[:3]):
        yield "exchange", widths
