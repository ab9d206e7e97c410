"""What a trial of some groups found, and its form in a log. It knows no trial and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from search.graph.exported.deadline import LATE
from search.graph.trial_log import Verdict


@dataclass(frozen=True)
class TrialResult:
    """What a trial found, and what it leaves for the next trial on the same draw.

    Attributes:
        problem: what goes wrong without the groups; LATE where the time was over before that was
            known; None where nothing goes wrong.
        error: the largest relative error of the trials that passed so far on the same draw.
        scale: of the weights on which the trial ended.
        rescalings_left: see `Draw`.
        uses_one: see `OneExampleFirst`.
        one_suffices: see `OneExampleFirst`.
    """

    problem: str | None = None
    error: float = 0.0
    scale: float = 1.0
    rescalings_left: int = 0
    uses_one: bool = False
    one_suffices: bool = False

    @property
    def is_late(self) -> bool:
        """Whether the time was over."""
        return self.problem == LATE

    @property
    def is_failure(self) -> bool:
        """Whether something went wrong, other than that the time was over."""
        return self.problem is not None and not self.is_late

    def to_verdict(self) -> Verdict:
        """The result as JSON."""
        return asdict(self)

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> TrialResult:
        """The result that `to_verdict` wrote."""
        return cls(**verdict)


class Trial(Protocol):
    """Tries a model without some of the units of groups."""

    def result(self, names: Sequence[str]) -> TrialResult:
        """What is found when the groups `names` are cut together."""
        ...
