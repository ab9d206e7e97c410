"""What the trials of an analysis told, so that a later run goes on where one had to stop.

Which trial is held next follows from the verdicts before it. So the verdicts so far are all that a
later run needs: it takes them over, and begins with the first trial that is not among them. It
knows no trial.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from search.graph.exported.deadline import LATE, Deadline, Interruptible, OutOfTime

Verdict: TypeAlias = dict[str, Any]  # JSON


@dataclass(frozen=True)
class Verdicts:
    """The trials of an analysis and what they told, in order.

    Attributes:
        told: digest of a trial -> its verdict. The digest covers the exported graph, its groups,
            the code of the model and of this library, so that a verdict on anything else is not
            taken over.
        closed: no other trial is to be held: what these leave open stays unverified.
    """

    told: tuple[tuple[str, Verdict], ...] = ()
    closed: bool = False

    def to_json(self) -> str:
        """The verdicts as JSON."""
        return json.dumps({"told": self.told, "closed": self.closed})

    @classmethod
    def from_json(cls, text: str) -> Verdicts:
        """What `to_json` wrote.

        Raises:
            ValueError: the text is something else.
        """
        try:
            document = json.loads(text)
            told = tuple((str(digest), dict(verdict)) for digest, verdict in document["told"])
            return cls(told, bool(document["closed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"verdicts must be what to_json wrote, but got {type(error).__name__}: {error}"
            ) from None


class TrialLog:
    """Hears one trial after the other: from the verdicts so far, or by holding it.

    Args:
        verdicts: those so far.
        deadline: no trial begins after it.

    Attributes:
        is_out_of_time: a trial was requested that the deadline refused; all later ones are
            refused too.
    """

    def __init__(self, verdicts: Verdicts, deadline: Deadline) -> None:
        self.is_out_of_time = False
        self.deadline = deadline
        self._closed = verdicts.closed
        self._told = list(verdicts.told)
        self._next = 0
        self._subject = ""

    @property
    def verdicts(self) -> Verdicts:
        """Those so far and the new ones."""
        return Verdicts(tuple(self._told), self._closed)

    def turn_to(self, subject: str) -> None:
        """From here on trials are of another subject; see `fingerprint_of`."""
        self._subject = subject

    def verdict(
        self, trial: str, names: Sequence[str], hold: Callable[[], Verdict]
    ) -> Verdict | None:
        """What a trial tells; None if the time is over.

        Args:
            trial: which one it is.
            names: of the groups that are tried.
            hold: holds it; its operators are broken off when the time is over.
        """
        if self.is_out_of_time:
            return None
        digest = hashlib.sha256("\n".join((self._subject, trial, *names)).encode()).hexdigest()
        if self._next < len(self._told):
            if self._told[self._next][0] == digest:
                self._next += 1
                return self._told[self._next - 1][1]
            self._closed = False  # they are of something else
        told = self._held(hold)
        if told is None:
            self.is_out_of_time = True
            return None
        self._told[self._next :] = [(digest, told)]
        self._next += 1
        return told

    def problem(
        self, trial: str, names: Sequence[str], hold: Callable[[], str | None]
    ) -> str | None:
        """`verdict` of a trial that tells a problem or none; LATE if the time is over."""
        told = self.verdict(trial, names, lambda: {"problem": hold()})
        return LATE if told is None else problem_in(told)

    def _held(self, hold: Callable[[], Verdict]) -> Verdict | None:
        if self._closed or self.deadline.refuses_step():
            return None
        try:
            with Interruptible(self.deadline.refuses_step):
                return hold()
        except OutOfTime:
            return None


def problem_in(told: Verdict) -> str | None:
    """The problem that a verdict tells."""
    problem: str | None = told["problem"]
    return problem
