"""What a task handler is given and what it hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobs.repository import jobs
from search.graph import PruningGraph
from workers.context import Context
from workers.library import Data, Library
from workers.snapshot import Snapshot
from workers.time_limit import is_over


@dataclass(frozen=True)
class Work:
    """One claimed task: its payload, its job, and the means to do it."""

    context: Context
    library: Library
    snapshot: Snapshot
    payload: dict[str, Any]

    @property
    def graph(self) -> PruningGraph:
        """The job's traced network."""
        return self.library.job_graph(self.snapshot)

    @property
    def data(self) -> Data:
        """The job's training data and splits."""
        return self.library.data(self.snapshot)

    def is_to_stop(self) -> bool:
        """Whether a user has asked by now for the best so far, or the job's time is over."""
        with self.context.read() as session:
            job = jobs.find(session, self.snapshot.job.id)
            is_asked = job is not None and job.stop_requested
        return is_asked or is_over(self.snapshot, self.context.clock())


@dataclass(frozen=True)
class Done:
    """The task's result.

    Attributes:
        spent: Files of the store that nobody needs once the result is kept.
    """

    result: dict[str, Any]
    spent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Again:
    """The task goes on in another slice, from this payload.

    Attributes:
        spent: Files of the store that nobody needs once the payload is kept.
    """

    payload: dict[str, Any]
    spent: tuple[str, ...] = ()


Handler = Callable[[Work], Done | Again]
