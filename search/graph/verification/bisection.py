"""Finds which groups pass a trial together, by splitting those that fail it into halves.

It knows names and results of trials, neither groups nor models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from search.graph.exported.deadline import LATE
from search.graph.verification.trial_result import TrialResult

RunTrial: TypeAlias = Callable[[Sequence[str]], TrialResult]
Families: TypeAlias = list[list[str]]


def family(name: str) -> str:
    """The name without indices: groups whose names differ in an index only belong to blocks that
    are alike."""
    return re.sub(r"(^|(?<=\.))\d+(?=\.)", "#", name)


@dataclass(frozen=True)
class Bisected:
    """What a bisection found.

    Attributes:
        passed: the groups that passed a trial together, in order.
        result: of the trial in which exactly those were cut; None if there are none.
        reasons: why each other one did not pass.
        has_failed: a trial failed, and not only because the time was over.
    """

    passed: list[str]
    result: TrialResult | None
    reasons: Mapping[str, str]
    has_failed: bool


@dataclass(frozen=True)
class _Part:
    """`Bisected`, in families, for some of them."""

    passed: Families = field(default_factory=list)
    result: TrialResult | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    has_failed: bool = False


class Bisection:
    """Splits groups into halves until every part passes or is one family.

    Args:
        family: name of a group -> its family, which is tried and refused together; by default
            each group is a family of its own.
        most_trials: how many trials it may run, over all calls of `bisect`, before what fails
            together is refused together.
    """

    def __init__(
        self, family: Callable[[str], str] = str, *, most_trials: float = math.inf
    ) -> None:
        self._family = family
        self._trials_left = most_trials

    def bisect(self, names: Sequence[str], trial: RunTrial) -> Bisected:
        """Find the groups that pass a trial together.

        Args:
            names: of the groups.
            trial: tries some of them.
        """
        families: dict[str, list[str]] = {}
        for name in names:
            families.setdefault(self._family(name), []).append(name)
        part = self._bisected(list(families.values()), trial)
        return Bisected(_names(part.passed), part.result, part.reasons, part.has_failed)

    def _bisected(self, families: Families, trial: RunTrial) -> _Part:
        if not families:
            return _Part()
        result = self._run(families, trial)
        if result.problem is None:
            return _Part(families, result)
        if len(families) == 1 or result.is_late or self._trials_left <= 0:
            return _Part(reasons=_refused(families, result), has_failed=result.is_failure)
        middle = len(families) // 2
        first = self._bisected(families[:middle], trial)
        second = self._bisected(families[middle:], trial)
        return self._joined(first, second, result, trial)

    def _joined(self, first: _Part, second: _Part, before: TrialResult, trial: RunTrial) -> _Part:
        """Both parts, as far as what passed in each passes together.

        Args:
            first: what was found of the first half.
            second: what was found of the second half.
            before: of the trial of all of both, which failed.
            trial: tries some of them.
        """
        so_far = _Part(
            reasons={**first.reasons, **second.reasons},
            has_failed=before.is_failure or first.has_failed or second.has_failed,
        )
        if not first.passed or not second.passed:
            other = first if first.passed else second
            return replace(so_far, passed=other.passed, result=other.result)
        both = first.passed + second.passed
        is_known = not so_far.reasons  # then the trial before was of the same groups
        together = before if is_known else self._run(both, trial)
        if together.problem is None:
            return replace(so_far, passed=both, result=together)
        refused = _refused(second.passed, together, beside=first.passed[0][0])
        return _Part(
            first.passed,
            first.result,
            {**so_far.reasons, **refused},
            so_far.has_failed or together.is_failure,
        )

    def _run(self, families: Families, trial: RunTrial) -> TrialResult:
        self._trials_left -= 1
        return trial(_names(families))


def _refused(families: Families, result: TrialResult, beside: str = "") -> dict[str, str]:
    """Name of each group -> why it is refused: because of `result`, with `beside` also cut."""
    where = f"beside {beside}, " if beside else ""
    reason = LATE if result.is_late else f"unverified: {where}{result.problem}"
    return dict.fromkeys(_names(families), reason)


def _names(families: Families) -> list[str]:
    return [name for names in families for name in names]
