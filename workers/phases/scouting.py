"""Scouting: asks for what every search begins with, while the sensitivities are found.

Feasibility and staircases need no floors. The search asks for them again, finds them known, and
goes on; so the device is busy while the workers are.
"""

from __future__ import annotations

from search.explorer import Explorer
from workers.context import Context
from workers.decision import NewRequest
from workers.library import Library
from workers.phases import precision
from workers.phases.facts import prepared_result
from workers.phases.questions import SCREENING, Questions, search_config
from workers.snapshot import Snapshot

EARLY = {"feasibility", "staircases"}


def scout(context: Context, library: Library, snapshot: Snapshot) -> tuple[NewRequest, ...]:
    """The requests that the early part of the search waits for; none once it is over."""
    graph = library.job_graph(snapshot)
    scores = library.scores(prepared_result(snapshot).scores)
    segments = precision.segments(snapshot)
    explorer = Explorer(search_config(snapshot), graph, scores, floors={}, segments=segments)
    questions = Questions(context, library, snapshot)
    while explorer.progress()["phase"] in EARLY:
        if not questions.tell_and_ask(explorer):
            return tuple(
                questions.request(candidate.plan, SCREENING)
                for candidate in explorer.outstanding()
                if candidate.needs == "latency"
            )
    return ()
