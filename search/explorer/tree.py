"""The search tree: its nodes, what they share, and how they rank. Proposes nothing."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from search.explorer.config import SearchConfig
from search.explorer.importance import Importance, ScoreLike
from search.explorer.node import Node, Start, Timing
from search.explorer.outcomes import Measured
from search.explorer.recall import Recall
from search.explorer.segments import FLOAT, INT8, Pattern
from search.plan import Plan

ScoresAt = Callable[[str], Mapping[str, ScoreLike]]  # of the units, with a checkpoint's weights


class Tree:
    """All nodes by digest; the root is the dense plan, whose ratio is 1 by definition.

    Args:
        config: For the budget, the window and the steps.
        importance: Penalties and units, with the dense model's weights.
        limits: Whether a plan is small enough.
        scores_at: The scores with the weights of a checkpoint; by default units stay in the order
            of the dense model's.
    """

    def __init__(
        self,
        config: SearchConfig,
        importance: Importance,
        limits: Callable[[Plan], bool] | None = None,
        scores_at: ScoresAt | None = None,
    ) -> None:
        self.config = config
        self._limits, self._scores_at = limits, scores_at
        self.importance = importance
        self.nodes: dict[str, Node] = {}
        self._timings: dict[tuple[int, ...], Timing] = {}
        self._continued: dict[str, Importance] = {}
        self.recall = Recall(importance.widths)
        self.root = self.add(importance.widths, 0, None, "dense")
        self.root.timing.latency = Measured(1.0, 1.0, 1.0)
        self.root.timing.is_requested = True
        self.root.kept = True

    def add(self, widths: Mapping[str, int], level: int, parent: Node | None, origin: str) -> Node:
        """The node of these widths and of the parent's weights: the one that exists already, or a
        new one."""
        start = None if parent is None else parent.start_of_children
        plan = self._importance_after(start).plan(widths)
        digest = self._digest(plan, start)
        if digest not in self.nodes:
            wide = {name: widths[name] for name in sorted(self.importance.widths)}
            self.nodes[digest] = Node(
                plan=plan,
                digest=digest,
                widths=wide,
                level=level,
                parent=None if parent is None else parent.digest,
                origin=origin,
                penalty=self.importance.total(widths),
                fits=self.fits(plan),
                pattern={name: widths[name] for name in self.importance.segments},
                start=start,
                steps=self.config.entwined,
                timing=self._timings.setdefault(tuple(wide.values()), Timing()),
            )
        return self.nodes[digest]

    def _importance_after(self, start: Start | None) -> Importance:
        """Which units a plan keeps, by the scores of the weights that it starts from."""
        if start is None or self._scores_at is None:
            return self.importance
        if start.node not in self._continued:
            scores = self._scores_at(start.checkpoint)
            self._continued[start.node] = self.importance.continuing(start.plan, scores)
        return self._continued[start.node]

    def _digest(self, plan: Plan, start: Start | None) -> str:
        """Of the plan alone for the dense model's weights. Else of what led to the weights, never
        of the weights themselves, which another machine would train otherwise in the last bits."""
        if start is None:
            return plan.digest
        text = f"{plan.digest}:{start.node}:{start.steps}:{self.config.seed}"
        return hashlib.sha256(text.encode()).hexdigest()

    def roots(self) -> Sequence[Pattern]:
        """All segments float, and all in int8; one alone without segments."""
        importance = self.importance
        patterns = [importance.pattern(FLOAT), importance.pattern(INT8)]
        return patterns if importance.segments else patterns[:1]

    def int8_root(self) -> Node | None:
        """The dense plan with all segments in int8; None without segments."""
        if not self.importance.segments:
            return None
        widths = {**self.importance.widths, **self.importance.pattern(INT8)}
        return self.add(widths, 0, self.root, "int8")

    def fits(self, plan: Plan) -> bool:
        """Whether a plan keeps to the limits of parameters and memory."""
        return self._limits is None or self._limits(plan)

    @property
    def is_limited(self) -> bool:
        """Whether there are such limits."""
        return self._limits is not None

    def measured(self) -> list[Node]:
        """Nodes with a measured ratio, in digest order."""
        return [node for _, node in sorted(self.nodes.items()) if node.ratio is not None]

    def meeting(self, ratio: float) -> list[Node]:
        """Measured nodes at or below a ratio, in digest order; for the budget and below only those
        that keep to the other limits too."""
        must_fit = ratio <= self.config.budget
        return [
            node for node in self.measured() if node.meets(ratio) and (node.fits or not must_fit)
        ]

    def measured_widths(self) -> int:
        """How many different widths have a measured ratio."""
        return len({id(node.timing) for node in self.nodes.values() if node.ratio is not None})

    def ordered(self) -> list[Node]:
        """Every node, by level and digest."""
        return sorted(self.nodes.values(), key=lambda node: (node.level, node.digest))

    def finalists(self, count: int) -> list[Node]:
        """The best nodes for the budget: see `_tier`, then loss, importance and digest."""
        ranked = sorted(self.measured(), key=lambda node: (self._tier(node), node.rank()))
        return ranked[:count]

    def within_budget(self) -> list[Node]:
        """Those of them that meet the budget and the other limits, all of them."""
        meeting = [
            node for node in self.nodes.values() if node.meets(self.config.budget) and node.fits
        ]
        return sorted(meeting, key=lambda node: (self._tier(node), node.rank()))

    def has_result(self, simple: bool) -> bool:
        """Whether one of them is scored; `simple`: be it the uniform network."""
        return any(
            node.loss is not None and (simple or node.origin != "uniform")
            for node in self.within_budget()
        )

    def _tier(self, node: Node) -> tuple[int, float]:
        """Inside the window with its interval, inside it, below it, up to β, unscored, above or
        too large."""
        budget, ratio, high = self.config.budget, node.ratio, node.ratio_high
        if ratio is None or high is None or ratio > budget or not node.fits:
            return 5, ratio or 0.0
        if node.loss is None:
            return 4, -ratio
        low_edge, high_edge = (edge * budget for edge in self.config.window)
        if ratio > high_edge:
            return 3, 0.0
        if ratio < low_edge:
            return 2, 0.0
        return (0 if high <= budget else 1), 0.0


def pareto(nodes: Iterable[Node]) -> list[Node]:
    """Scored nodes that no faster node beats in loss, slowest first."""
    scored = [node for node in nodes if node.loss is not None and node.ratio is not None]
    front: list[Node] = []
    for node in sorted(scored, key=lambda node: (node.ratio or 0.0, *node.rank())):
        if not front or (node.loss or 0.0) < (front[-1].loss or 0.0):
            front.append(node)
    return front[::-1]
