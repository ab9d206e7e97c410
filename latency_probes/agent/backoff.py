"""Waiting times between tries: doubling, with jitter so that a fleet does not come back all at
once."""

import random

_FIRST_S = 0.2
_MOST_S = 10.0


class Backoff:
    """One run of failures; `reset` after a success."""

    def __init__(self, source: random.Random, *, first_s: float = _FIRST_S) -> None:
        self._source, self._first_s = source, first_s
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next_s(self) -> float:
        """How long to wait now: between half of and the whole doubled time, at most 10 s."""
        whole = min(self._first_s * 2.0 ** min(self._failures, 20), _MOST_S)
        self._failures += 1
        return whole * self._source.uniform(0.5, 1.0)
