"""Scouting: asks for what every search begins with, while the sensitivities are found.

Feasibility and staircases need no floors. The search asks for them again, finds them known, and
goes on; so the device is busy while the workers are.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.explorer import Explorer
from workers.context import Context
from workers.decision import NewRequest, NewTask
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
        tasks: The losses that it waits for, likewise.
        left: How many measurements it would still take.
        is_over: Whether it ended there: the budget is out of reach, or all of the model in int8
            is the answer.
    """

    requests: tuple[NewRequest, ...]
    tasks: tuple[NewTask, ...]
    left: int
    is_over: bool


def scout(context: Context, library: Library, snapshot: Snapshot) -> Scouted:
    """How far a search would get with what is known."""
    graph = library.job_graph(snapshot)
    scores = library.scores(prepared_result(snapshot).scores)
    segments = precision.segments(snapshot)
    explorer = Explorer(search_config(snapshot), graph, scores, floors={}, segments=segments)
    questions = Questions(context, library, snapshot)
    asked: tuple[NewRequest, ...] = ()
    scored: tuple[NewTask, ...] = ()
    while (now := explorer.progress())["phase"] in EARLY:
        if not questions.tell_and_ask(explorer):
            waiting = explorer.outstanding()
            asked = tuple(
                request
                for candidate in waiting
                if candidate.needs == "latency"
                for request in questions.requests(candidate.plan, SCREENING)
            )
            scored = tuple(
                questions.task(candidate) for candidate in waiting if candidate.needs == "loss"
            )
            break
    return Scouted(asked, scored, now["remaining"], explorer.done)
