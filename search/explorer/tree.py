"""The search tree: its nodes, what is known of them, and how they rank. Proposes nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.explorer.config import SearchConfig
from search.explorer.importance import Importance
from search.explorer.outcomes import Failed, Measured, Needs, Outcome, Scored
from search.explorer.prior import Sample
from search.explorer.recall import Recall
from search.explorer.segments import FLOAT, INT8, Pattern
from search.plan import Plan


@dataclass(frozen=True)
class Candidate:
    """One question to the outside: the latency or the loss of a plan."""

    plan: Plan
    digest: str
    level: int
    parent: str | None
    origin: str
    needs: Needs

    @property
    def key(self) -> tuple[str, Needs]:
        """What makes the question distinct."""
        return self.digest, self.needs


@dataclass
class Node:
    """A plan in the tree and its outcomes so far."""

    plan: Plan
    digest: str
    widths: dict[str, int]
    level: int
    parent: str | None
    origin: str
    penalty: float
    fits: bool = True  # within the limits of parameters and memory
    pattern: Pattern = field(default_factory=dict)
    latency: Measured | Failed | None = None
    score: Scored | Failed | None = None
    kept: bool = False
    requested: set[Needs] = field(default_factory=set)

    @property
    def ratio(self) -> float | None:
        return self.latency.ratio if isinstance(self.latency, Measured) else None

    @property
    def ratio_high(self) -> float | None:
        return self.latency.ratio_high if isinstance(self.latency, Measured) else None

    @property
    def sample(self) -> Sample | None:
        """What the prior learns from; a 95 % interval spans four standard errors."""
        if not isinstance(self.latency, Measured):
            return None
        noise = (self.latency.ratio_high - self.latency.ratio_low) / 4
        return Sample(self.widths, self.latency.ratio, noise)

    @property
    def loss(self) -> float | None:
        return self.score.loss if isinstance(self.score, Scored) else None

    @property
    def standard_error(self) -> float:
        """Of the loss; 0 where it is not known."""
        return (self.score.standard_error or 0.0) if isinstance(self.score, Scored) else 0.0

    @property
    def error(self) -> str | None:
        for outcome in (self.latency, self.score):
            if isinstance(outcome, Failed):
                return f"{outcome.kind}: {outcome.message}"
        return None

    def meets(self, ratio: float) -> bool:
        """Whether the measured ratio is known and at most `ratio`."""
        return self.ratio is not None and self.ratio <= ratio

    def request(self, needs: Needs) -> list[Candidate]:
        """The question, on the first request; nothing afterwards."""
        if needs in self.requested:
            return []
        self.requested.add(needs)
        return [
            Candidate(self.plan, self.digest, self.level, self.parent, self.origin, needs)
        ]  # fmt: skip

    def tell(self, outcome: Outcome, needs: Needs) -> None:
        """Keeps an outcome of the fitting kind."""
        if needs == "latency" and not isinstance(outcome, Scored):
            self.latency = outcome
        if needs == "loss" and not isinstance(outcome, Measured):
            self.score = outcome

    def rank(self) -> tuple[float, float, str]:
        """Loss, then importance, then digest; nodes without a loss come last."""
        return (float("inf") if self.loss is None else self.loss, self.penalty, self.digest)

    def row(self) -> dict[str, Any]:
        """The node as a JSON object."""
        latency = self.latency if isinstance(self.latency, Measured) else None
        return {
            "digest": self.digest,
            "parent": self.parent,
            "level": self.level,
            "origin": self.origin,
            "widths": {
                name: width for name, width in self.widths.items() if name not in self.pattern
            },
            "int8": sorted(self.plan.precision),
            "ratio": self.ratio,
            "ratio_low": latency.ratio_low if latency else None,
            "ratio_high": self.ratio_high,
            "latency_ms": latency.latency_ms if latency else None,
            "loss": self.loss,
            "kept": self.kept,
            "error": self.error,
        }


class Tree:
    """All nodes by digest; the root is the dense plan, whose ratio is 1 by definition."""

    def __init__(
        self,
        config: SearchConfig,
        importance: Importance,
        limits: Callable[[Plan], bool] | None = None,
    ) -> None:
        self.config = config
        self._limits = limits
        self.importance = importance
        self.nodes: dict[str, Node] = {}
        self.recall = Recall(importance.widths)
        self.root = self.add(importance.widths, 0, None, "dense")
        self.root.latency = Measured(1.0, 1.0, 1.0)
        self.root.requested.add("latency")
        self.root.kept = True

    def add(self, widths: Mapping[str, int], level: int, parent: Node | None, origin: str) -> Node:
        """The node of these widths: the one that exists already, or a new one."""
        plan = self.importance.plan(widths)
        digest = plan.digest
        if digest not in self.nodes:
            self.nodes[digest] = Node(
                plan=plan,
                digest=digest,
                widths={name: widths[name] for name in sorted(self.importance.widths)},
                level=level,
                parent=None if parent is None else parent.digest,
                origin=origin,
                penalty=self.importance.total(widths),
                fits=self.fits(plan),
                pattern={name: widths[name] for name in self.importance.segments},
            )
        return self.nodes[digest]

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
