"""One more finalist, for when all chosen ones miss the budget with their true weights.

| symbol | meaning |
|---|---|
| excess | how much slower true weights are than the skeleton: final over strict ratio, >= 1 |
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from jobs.states import JobState
from search.explorer import Explorer, Measured, Node
from workers.decision import Decision, SearchSave
from workers.phases.demands import tightest
from workers.phases.facts import Verified, finalists, judged
from workers.phases.questions import Questions
from workers.results import Chosen
from workers.snapshot import Snapshot
from workers.time_limit import is_over

MOST = 2  # spares per job: each costs a whole fine-tuning


def is_wanted(snapshot: Snapshot, best: Verified, now: datetime) -> bool:
    """Whether the best finalist misses the budget beyond doubt, and another may be tried."""
    is_missed = best.rank(tightest(snapshot))[0] != 0 and best.is_calm
    tried, wanted = len(finalists(snapshot)), snapshot.spec.search.finalists
    is_ended = is_over(snapshot, now) or (snapshot.search_state or {}).get("exhausted", False)
    return is_missed and tried < wanted + MOST and not is_ended


def back_to_search(snapshot: Snapshot, best: Verified) -> Decision:
    """The job returns to the nodes that the search found."""
    told = {
        "digest": best.chosen.digest,
        "ratio": best.judged.ratio,
        "ratio_high": best.judged.ratio_high,
        "budget": tightest(snapshot),
    }
    return Decision(events=(("missed", told),), to_state=JobState.SEARCHING)


def excess(snapshot: Snapshot, tried: Sequence[Chosen], questions: Questions) -> float:
    """The largest excess among the finalists tried so far; 1 without any."""
    return max((_excess(snapshot, each, questions) for each in tried), default=1.0)


def _excess(snapshot: Snapshot, chosen: Chosen, questions: Questions) -> float:
    final, strict = judged(snapshot, chosen.digest), questions.strict(chosen.to_plan())
    if final is None or not isinstance(strict, Measured):
        return 1.0
    return max(1.0, final.ratio / strict.ratio)


def untried(explorer: Explorer, tried: Sequence[Chosen], budget: float) -> list[Node]:
    """The nodes within `budget` that were no finalists yet, best first."""
    known = {each.digest for each in tried}
    ranked = explorer.finalists(len(explorer.nodes()))
    return [
        node for node in ranked if node.digest not in known and node.meets(budget) and node.fits
    ]


def none_left(tried: Sequence[Chosen]) -> Decision:
    """Back to the finalists there are: the best of them is the result, and says that it misses."""
    state = {"chosen": [each.model_dump() for each in tried], "exhausted": True}
    return Decision(search=SearchSave(state, ()), to_state=JobState.VERIFYING)
