"""Scouting: asks for what every search begins with, while the sensitivities are found.

Feasibility and staircases need no floors. The search asks for them again, finds them known, and
goes on; so the device is busy while the workers are.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.explorer import Explorer
from workers.context import Context
from workers.decision import NewRequest
from workers.library import Library
from workers.phases import precision
from workers.phases.facts import prepared_result
from workers.phases.questions import SCREENING, Questions, search_config
from workers.snapshot import Snapshot

EARLY = {"feasibility", "staircases"}


@dataclass(frozen=True)
class Scouted:
    """What a search would wait for now.

    Attributes:
        requests: Of its early part; none once that is over.
        left: How many measurements it would still take.
    """

    requests: tuple[NewRequest, ...]
    left: int


def scout(context: Context, library: Library, snapshot: Snapshot) -> Scouted:
    """How far a search would get with what is known."""
    graph = library.job_graph(snapshot)
    scores = library.scores(prepared_result(snapshot).scores)
    segments = precision.segments(snapshot)
    explorer = Explorer(search_config(snapshot), graph, scores, floors={}, segments=segments)
    questions = Questions(context, library, snapshot)
    asked: tuple[NewRequest, ...] = ()
    while (now := explorer.progress())["phase"] in EARLY:
        if not questions.tell_and_ask(explorer):
            asked = tuple(
                request
                for candidate in explorer.outstanding()
                if candidate.needs == "latency"
                for request in questions.requests(candidate.plan, SCREENING)
            )
            break
    return Scouted(asked, now["remaining"])
