"""How the time that a search and the fine-tuning after it may take is shared between them."""

from __future__ import annotations

import math

# Of nine recorded jobs, 48 to 94 % of this time was the search's, 62 % in the middle; a result
# that was never trained loses more than one of a narrower search.
SEARCH_SHARE = 0.6

_REFINEMENTS = 2  # as `SearchConfig` has it
_WHILE_THERE_IS_TIME = 64  # rounds, more than any search has needed to come to an end


def refinements(asked: int | None, limit_s: float | None) -> int:
    """How many refinements a search may have: those asked for; else with a limit of time as many
    as fit into it and bring something better."""
    if asked is not None:
        return asked
    return _REFINEMENTS if limit_s is None else _WHILE_THERE_IS_TIME


def search_is_over(spent_s: float, limit_s: float | None, *, has_result: bool) -> bool:
    """Whether the search ends with what it has.

    Args:
        spent_s: seconds since the search began.
        limit_s: of search and fine-tuning together; None is no limit.
        has_result: whether something is within the budget; without it the search goes on for all
            of the time.
    """
    limit_s = math.inf if limit_s is None else limit_s
    return spent_s >= limit_s * (SEARCH_SHARE if has_result else 1.0)
