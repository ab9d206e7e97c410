"""How the time that a search and the fine-tuning after it may take is shared between them."""

from __future__ import annotations

import math

from search.explorer import Explorer

# Of nine recorded jobs, 48 to 94 % of this time was the search's, 62 % in the middle; a result
# that was never trained loses more than one of a narrower search.
SEARCH_SHARE = 0.6
# For one that has nothing but the uniform network, chosen and not measured: after as much training
# plans of a tree were 0.8 points ahead of that (docs/benchmarks.md, "search").
LAST_SHARE = 0.8
# Half of the search's, chosen and not measured: the other half is for the level at the budget.
HURRY_SHARE = SEARCH_SHARE / 2

_REFINEMENTS = 2  # as `SearchConfig` has it
_WHILE_THERE_IS_TIME = 64  # rounds, more than any search has needed to come to an end


def refinements(asked: int | None, limit_s: float | None) -> int:
    """How many refinements a search may have: those asked for; else with a limit of time as many
    as fit into it and bring something better."""
    if asked is not None:
        return asked
    return _REFINEMENTS if limit_s is None else _WHILE_THERE_IS_TIME


def keep_time(explorer: Explorer, spent_s: float, limit_s: float | None) -> bool:
    """Hurries a search that is late, and ends one whose time is over. One without a scored plan
    within its budget goes on: for longer with the uniform network, for all of the time without
    anything, as a plan that is only fast is no result.

    Args:
        explorer: That is not done.
        spent_s: seconds since the search began.
        limit_s: of search and fine-tuning together; None is no limit.

    Returns:
        Whether it changed something.
    """
    if limit_s is None or spent_s < limit_s * HURRY_SHARE:
        return False
    is_enough = spent_s >= limit_s * SEARCH_SHARE and explorer.has_result(simple=False)
    is_late = spent_s >= limit_s * LAST_SHARE and explorer.has_result()
    if is_enough or is_late or spent_s >= limit_s:
        explorer.stop()
        return True
    return explorer.hurry()


def steps_in_time(step: int, asked: int, spent_s: float, left_s: float) -> int:
    """How many steps a training comes to: those asked for, or as many as there is time for. A
    learning rate that falls to zero there is worth more than one that is cut off on its way
    (budgeted training: Li, Yumer and Ramanan 2020, arXiv 1905.04753).

    Args:
        step: So many have been run, in `spent_s` seconds.
        left_s: infinite without a limit.
    """
    if step <= 0 or spent_s <= 0 or math.isinf(left_s):
        return asked
    return min(asked, step + int(step * max(left_s, 0.0) / spent_s))
