"""The levels of Archtree: propose, measure, move, score, keep the best. Generators of rounds."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from statistics import median

from search.explorer.node import Node
from search.explorer.outcomes import Measured
from search.explorer.preparation import Relax, SearchStatus, declare_infeasible, prepare
from search.explorer.proposals import propose, refined, widths_key
from search.explorer.recall import Proposal
from search.explorer.rounds import RoundGenerator, measure, score, tune
from search.explorer.space import Space, anchored
from search.explorer.tree import Tree

_APART = 2  # groups in which two nodes of a beam differ at least, as far as there are such
_APART_BY_NOISE = 2**0.5  # half intervals: the error of a difference of two latencies
_LEAST_ROOM, _MOST_ROOM = 0.005, 0.03  # part of a target left free for the interval


def archtree(
    tree: Tree, status: SearchStatus, floors: Mapping[str, int], relax: Relax | None
) -> RoundGenerator[None]:
    """The whole search, from the dense model to the finalists."""
    if tree.config.budget >= 1.0 and tree.root.fits:
        yield from score([tree.root])
        return
    space = yield from prepare(tree, status, floors, relax)
    if space is None:
        return
    status.phase = "levels"
    status.targets = _targets(tree, status)
    anchors = yield from _measure_anchors(tree, space, status.targets)
    starts = dict(zip(status.targets, anchors, strict=True))
    frontier = [tree.root]
    for pattern in space.patterns()[1:]:
        other = tree.add({**tree.importance.widths, **pattern}, 0, tree.root, "int8")
        yield from measure([other])
        frontier.append(other)
    while status.level < len(status.targets):
        if status.pace.is_hurried():
            status.targets = (*status.targets[: status.level], tree.config.budget)
        target, status.level = status.targets[status.level], status.level + 1
        last = status.level == len(status.targets)
        step = Level(tree, space, status.level, target, last=last)
        frontier = yield from step.run(frontier, starts[target])
    yield from _refine(tree, space, frontier, status.level)
    if not tree.meeting(tree.config.budget):
        declare_infeasible(tree, status)


def _targets(tree: Tree, status: SearchStatus) -> tuple[float, ...]:
    """Of the levels; as far apart as latencies are told from each other, unless it is another
    limit than that of latency which leads the search. In a hurry the budget alone."""
    if status.pace.is_hurried():
        return (tree.config.budget,)
    if not tree.config.widen or tree.is_limited:
        return tree.config.targets
    return tree.config.targets_apart(_APART_BY_NOISE * _spread(tree.measured()))


def _refine(tree: Tree, space: Space, frontier: list[Node], level: int) -> RoundGenerator[None]:
    """Rounds at the budget, as long as each brings a better plan."""
    for number in range(1, tree.config.refinements + 1):
        before = tree.finalists(1)
        refinement = Refinement(tree, space, level, tree.config.budget, number)
        frontier = yield from refinement.run(frontier, ())
        if tree.finalists(1) == before:
            return


def _measure_anchors(
    tree: Tree, space: Space, targets: Sequence[float]
) -> RoundGenerator[list[list[Node]]]:
    """A knapsack plan per target and root: whole-model points that teach the prior before level
    1."""
    if not tree.config.learn:
        return [[] for _ in targets]
    anchors: list[list[Node]] = []
    for target in targets:
        plans = tree.recall.get(f"anchor:{target:.6f}", partial(_anchors, tree, space, target))
        anchors.append([tree.add(widths, 0, tree.root, origin) for origin, widths in plans])
    yield from measure({node.digest: node for nodes in anchors for node in nodes}.values())
    return anchors


def _anchors(tree: Tree, space: Space, target: float) -> list[Proposal]:
    """The knapsack plan of every root that has one."""
    plans = [
        space.under(pattern).cheapest(target * tree.config.aim, space.prior.ratio)
        for pattern in space.patterns()
    ]
    return [("anchor", widths) for widths in plans if widths]


class Level:
    """One intermediate latency target λ_t.

    Args:
        tree: All nodes.
        space: Allowed widths and the additive prior.
        level: t, from 1.
        target: λ_t as a ratio.
        last: Whether the target is the budget, which all limits come with.
    """

    def __init__(self, tree: Tree, space: Space, level: int, target: float, *, last: bool) -> None:
        config = tree.config
        self.tree, self.level, self.target = tree, level, target
        self.last = last
        self.low = target * config.window[0] if self.last else 0.0
        self.high = target * config.window[1] if self.last else target
        self.goal = target * min(config.aim, 1.0 - _room(tree.measured()))
        known = {  # one of all nodes of the same widths, which share their latency
            id(node.timing): node
            for node in tree.measured()
            if node.origin not in ("dense", "stair")  # the prior is made of these
        }
        self._known = list(known.values())
        self._unlearned = space

    @cached_property
    def space(self) -> Space:
        """The widths, with a prior that was fitted to what was known when the level began."""
        tree, space = self.tree, self._unlearned
        samples = [sample for node in self._known if (sample := node.sample)]
        if tree.config.learn:
            space = space.learned(space.prior.fitted(samples, self.target))
        if self.last and tree.is_limited:
            space = space.limited(lambda widths: tree.fits(tree.importance.plan(widths)))
        return space

    def run(self, frontier: Sequence[Node], anchors: Sequence[Node]) -> RoundGenerator[list[Node]]:
        """Measures, moves and scores children; returns the next frontier."""
        starts = self._children(frontier) | {anchor.digest: anchor for anchor in anchors}
        reached = yield from self._reach(starts)
        pool = {node.digest for node in (*self._pool(), *reached)}
        fallbacks = sorted(
            self.tree.meeting(self.high), key=lambda node: (node.penalty, node.digest)
        )
        if len(pool) < self.tree.config.beam_width:
            reached = [*reached, *fallbacks[: self.tree.config.beam_width]]
        yield from score(reached)
        kept = self._keep(frontier, fallbacks)
        if self.tree.config.entwined and not self.last:
            yield from tune(node for node in kept if node is not self.tree.root)
        return kept

    def _children(self, frontier: Iterable[Node]) -> dict[str, Node]:
        seen = {
            tuple(node.widths.values())
            for node in self.tree.nodes.values()
            if "loss" in node.requested or not node.meets(self.high)
        }
        children: dict[str, Node] = {}
        for parent in sorted(frontier, key=lambda node: node.digest):
            for origin, widths in self.tree.recall.get(
                self._step("children", parent), partial(self._proposals, parent, seen)
            ):
                seen.add(widths_key(widths))
                node = self.tree.add(widths, self.level, parent, origin)
                children[node.digest] = node
        return children

    def _proposals(self, parent: Node, seen: set[tuple[int, ...]]) -> list[Proposal]:
        return propose(self.space, parent, self.goal, self.tree.config, seen)

    def _step(self, kind: str, node: Node) -> str:
        return f"{kind}:{self.level}:{node.digest[:8]}"

    def _reach(self, starts: Mapping[str, Node]) -> RoundGenerator[list[Node]]:
        """Moves what misses the target, measures again; returns what is to be scored."""
        active, reached, visited = dict(starts), dict[str, Node](), set(starts)
        for move in range(self.tree.config.max_moves + 1):
            known = filter(self._is_reached, active.values())  # anchors were measured before
            yield from measure(active.values(), score=known, worth_scoring=self._is_reached)
            missed = []
            for digest, node in sorted(active.items()):
                if self._is_reached(node):
                    reached[digest] = node
                elif node.ratio is not None:
                    missed.append(node)
            if move == self.tree.config.max_moves:
                break
            moved = [self._moved(node) for node in missed]
            active = {node.digest: node for node in moved if node and node.digest not in visited}
            visited.update(active)
            if not active:
                break
        return list(reached.values())

    def _is_reached(self, node: Node) -> bool:
        ratio = node.ratio
        return ratio is not None and self.low <= ratio <= self.high and self._fits(node)

    def _fits(self, node: Node) -> bool:
        return node.fits or not self.last

    def _moved(self, node: Node) -> Node | None:
        """The cheapest stairs down (or, from below the window, the most stairs up)."""
        if node.ratio is None:
            return None
        found = self.tree.recall.get(self._step("move", node), partial(self._move_of, node))
        return next(
            (self.tree.add(widths, self.level, node, origin) for origin, widths in found), None
        )

    def _move_of(self, node: Node) -> list[Proposal]:
        if node.ratio is None or node.sample is None:
            return []
        predict, space = anchored(self.space, node.sample), self.space.under(node.pattern)
        if node.ratio > self.high or not self._fits(node):
            origin = "shrink"
            widths = space.cheapest(self.goal, predict, most=node.widths)
        else:
            origin = "grow"
            widths = space.cheapest(self.goal, predict, least=node.widths)
        if widths is None or widths == node.widths:
            return []
        return [(origin, widths)]

    def _pool(self) -> list[Node]:
        return [node for node in self.tree.meeting(self.high) if "loss" in node.requested]

    def _keep(self, frontier: Sequence[Node], fallbacks: Sequence[Node]) -> list[Node]:
        width = self.tree.config.beam_width
        if self.last:
            kept = [
                node
                for node in self.tree.finalists(width)
                if node.meets(self.target) and node.fits
            ]
        else:
            scored = [node for node in self.tree.meeting(self.high) if node.loss is not None]
            kept = diverse(sorted(filter(_is_parent, scored), key=Node.rank), width)
        kept = kept or list(fallbacks[:width]) or list(frontier)
        for node in kept:
            node.kept = True
            if node is not self.tree.root:  # measured before the levels, and good enough for one
                node.level = node.level or self.level
        return list(filter(_is_parent, kept)) or list(frontier)


class Refinement(Level):
    """A round more at the budget, around the plans that were kept there.

    Args:
        number: From 1.
    """

    def __init__(self, tree: Tree, space: Space, level: int, target: float, number: int) -> None:
        super().__init__(tree, space, level, target, last=True)
        self.number = number

    def _proposals(self, parent: Node, seen: set[tuple[int, ...]]) -> list[Proposal]:
        return refined(self.space, parent, self.goal, self.tree.config, seen)

    def _step(self, kind: str, node: Node) -> str:
        return f"refined:{self.number}:{kind}:{node.digest[:8]}"


def _is_parent(node: Node) -> bool:
    """Whether children are made of it. Widths of the uniform network are no stairs, and it is a
    good deal faster than the first levels."""
    return node.origin != "uniform"


def diverse(ranked: Sequence[Node], count: int) -> list[Node]:
    """The first `count` nodes that are not twins of an earlier one: those differ from it in one
    group or none, and would have the same children. Twins fill the places that are left."""
    kept: list[Node] = []
    twins: list[Node] = []
    for node in ranked:
        is_twin = any(_differing(node, other) < _APART for other in kept)
        (twins if is_twin else kept).append(node)
    return (kept + twins)[:count]


def _differing(first: Node, second: Node) -> int:
    """In how many groups and segments two plans have other widths."""
    return sum(width != second.widths[name] for name, width in first.widths.items())


def _room(nodes: Iterable[Node]) -> float:
    """Part of a target to leave free for the interval."""
    return min(max(_spread(nodes), _LEAST_ROOM), _MOST_ROOM)


def _spread(nodes: Iterable[Node]) -> float:
    """The median distance from a ratio to its upper end, as a part of the ratio."""
    above = [
        node.latency.ratio_high / node.latency.ratio - 1.0
        for node in nodes
        if isinstance(node.latency, Measured) and node.origin != "dense"
    ]
    return median(above) if above else 0.0
