"""The verdicts of an analysis, in order, so that a later run goes on where one had to stop.

Which trial is run next follows from the verdicts before it. So the verdicts so far are all that a
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

# Files of earlier versions have the entries under this key.
_ENTRIES = "told"


@dataclass(frozen=True)
class Verdicts:
    """The trials of an analysis and their verdicts, in order.

    Attributes:
        entries: digest of a trial, and its verdict. The digest covers the exported graph, its
            groups, the code of the model and of this library, so that a verdict on anything else
            is not taken over.
        closed: no other trial is to be run: what these leave open stays unverified.
    """

    entries: tuple[tuple[str, Verdict], ...] = ()
    closed: bool = False

    def to_json(self) -> str:
        """The verdicts as JSON."""
        return json.dumps({_ENTRIES: self.entries, "closed": self.closed})

    @classmethod
    def from_json(cls, text: str) -> Verdicts:
        """The verdicts that `to_json` wrote.

        Raises:
            ValueError: the text is something else.
        """
        try:
            document = json.loads(text)
            entries = tuple((str(digest), dict(verdict)) for digest, verdict in document[_ENTRIES])
            return cls(entries, bool(document["closed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"verdicts must be what to_json wrote, but got {type(error).__name__}: {error}"
            ) from None


class TrialLog:
    """Gives the verdict of one trial after the other: from those so far, or by running the trial.

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
        self._entries = list(verdicts.entries)
        self._next = 0
        self._fingerprint = ""

    @property
    def verdicts(self) -> Verdicts:
        """Those so far and the new ones."""
        return Verdicts(tuple(self._entries), self._closed)

    def begin(self, fingerprint: str) -> None:
        """From here on trials are of another subject.

        Args:
            fingerprint: of the subject, see `fingerprint_of`.
        """
        self._fingerprint = fingerprint

    def verdict(
        self, trial: str, names: Sequence[str], run: Callable[[], Verdict]
    ) -> Verdict | None:
        """The verdict of a trial; None if the time is over.

        Args:
            trial: which one it is.
            names: of the groups that are tried.
            run: runs it; its operators are interrupted when the time is over.
        """
        if self.is_out_of_time:
            return None
        digest = hashlib.sha256("\n".join((self._fingerprint, trial, *names)).encode()).hexdigest()
        if self._next < len(self._entries):
            known, verdict = self._entries[self._next]
            if known == digest:
                self._next += 1
                return verdict
            self._closed = False  # they are of something else
        new = self._run(run)
        if new is None:
            self.is_out_of_time = True
            return None
        self._entries[self._next :] = [(digest, new)]
        self._next += 1
        return new

    def problem(
        self, trial: str, names: Sequence[str], run: Callable[[], str | None]
    ) -> str | None:
        """The problem that a trial finds, if any; LATE if the time is over.

        Args:
            trial: which one it is.
            names: of the groups that are tried.
            run: runs it, and returns the problem; see `verdict`.
        """
        verdict = self.verdict(trial, names, lambda: {"problem": run()})
        if verdict is None:
            return LATE
        problem: str | None = verdict["problem"]
        return problem

    def _run(self, run: Callable[[], Verdict]) -> Verdict | None:
        if self._closed or self.deadline.refuses_step():
            return None
        try:
            with Interruptible(self.deadline.refuses_step):
                return run()
        except OutOfTime:
            return None
