"""A node of the search tree: a plan, the weights that it starts from, and what is known of it.

The weights are those of the dense model, or those that a node above it had after some fine-tuning
(`Start`). Latency knows no weights: nodes of the same widths share it (`Timing`).
"""

from dataclasses import dataclass, field
from typing import Any

from search.explorer.outcomes import Failed, Measured, Needs, Outcome, Scored, Tuned
from search.explorer.prior import Sample
from search.explorer.segments import Pattern
from search.plan import Plan


@dataclass(frozen=True)
class Start:
    """Weights that a node starts from.

    Attributes:
        node: the digest of the node that was fine-tuned.
        plan: that node's plan.
        checkpoint: where its weights are kept.
        steps: how many steps they have been trained since the dense model.
    """

    node: str
    plan: Plan
    checkpoint: str
    steps: int


@dataclass(frozen=True)
class Candidate:
    """One question to the outside: the latency of a plan, its loss, or its weights after a few
    steps of fine-tuning.

    Attributes:
        start: the weights that it starts from; None for the dense model's.
        steps: of fine-tuning, where the weights are asked for.
    """

    plan: Plan
    digest: str
    level: int
    parent: str | None
    origin: str
    needs: Needs
    start: Start | None = None
    steps: int = 0

    @property
    def key(self) -> tuple[str, Needs]:
        """What makes the question distinct."""
        return self.digest, self.needs


@dataclass
class Timing:
    """The latency of all nodes of the same widths."""

    latency: Measured | Failed | None = None
    is_requested: bool = False


@dataclass
class Node:
    """A plan in the tree, the weights that it starts from, and its outcomes so far."""

    plan: Plan
    digest: str
    widths: dict[str, int]
    level: int
    parent: str | None
    origin: str
    penalty: float
    fits: bool = True  # within the limits of parameters and memory
    pattern: Pattern = field(default_factory=dict)
    start: Start | None = None
    steps: int = 0  # of fine-tuning, once it is kept
    timing: Timing = field(default_factory=Timing)
    score: Scored | Failed | None = None
    tuned: Tuned | Failed | None = None
    kept: bool = False
    requested: set[Needs] = field(default_factory=set)

    @property
    def latency(self) -> Measured | Failed | None:
        return self.timing.latency

    @property
    def start_of_children(self) -> Start | None:
        """Its own weights once they are fine-tuned, else those that it starts from."""
        if not isinstance(self.tuned, Tuned):
            return self.start
        before = 0 if self.start is None else self.start.steps
        return Start(self.digest, self.plan, self.tuned.checkpoint, before + self.steps)

    def outcome(self, needs: Needs) -> Outcome | None:
        """What a question brought; None while it is open."""
        return {"latency": self.latency, "loss": self.score, "weights": self.tuned}[needs]

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
        """With the newest weights."""
        newest = self._newest
        return None if newest is None else newest.loss

    @property
    def standard_error(self) -> float:
        """Of the loss; 0 where it is not known."""
        newest = self._newest
        return 0.0 if newest is None else newest.standard_error or 0.0

    @property
    def _newest(self) -> Scored | Tuned | None:
        found = self.tuned if isinstance(self.tuned, Tuned) else self.score
        return found if isinstance(found, Scored | Tuned) else None

    @property
    def error(self) -> str | None:
        for outcome in (self.latency, self.score, self.tuned):
            if isinstance(outcome, Failed):
                return f"{outcome.kind}: {outcome.message}"
        return None

    def meets(self, ratio: float) -> bool:
        """Whether the measured ratio is known and at most `ratio`."""
        return self.ratio is not None and self.ratio <= ratio

    def request(self, needs: Needs) -> list[Candidate]:
        """The question, on the first request; nothing afterwards."""
        if needs in self.requested or (needs == "latency" and self.timing.is_requested):
            return []
        self.requested.add(needs)
        if needs == "latency":
            self.timing.is_requested = True
        return [
            Candidate(
                self.plan, self.digest, self.level, self.parent, self.origin, needs, self.start,
                self.steps if needs == "weights" else 0,
            )
        ]  # fmt: skip

    def tell(self, outcome: Outcome, needs: Needs) -> None:
        """Keeps an outcome of the fitting kind."""
        if needs == "latency" and isinstance(outcome, Measured | Failed):
            self.timing.latency = outcome
        if needs == "loss" and isinstance(outcome, Scored | Failed):
            self.score = outcome
        if needs == "weights" and isinstance(outcome, Tuned | Failed):
            self.tuned = outcome

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
            "steps": start.steps if (start := self.start_of_children) else 0,
            "kept": self.kept,
            "error": self.error,
        }
