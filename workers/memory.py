"""What a worker process remembers of the jobs it looked at last, so that a decision costs what is
new. The database owns the truth: rows are read again where they changed, and a search is taken up
only where the job has the version at which it was left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from jobs.tables import Measurement, Request, Task
from search.explorer import Explorer, Node
from search.explorer.outcomes import Outcome


class _Row(Protocol):
    id: Any


R = TypeVar("R", bound=_Row)
Stamp = tuple[Any, ...]  # changes whenever a row does
Mark = tuple[int, bool, Outcome | None, Outcome | None, Outcome | None]
Heard = tuple[str, Request]  # purpose of a request, and the request as it was


class Rows(Generic[R]):
    """Rows of a job, each with the stamp that it had when it was read."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Stamp, R]] = {}

    def refreshed(
        self, stamps: Mapping[str, Stamp], read: Callable[[Sequence[str]], Iterable[R]]
    ) -> list[R]:
        """The rows as they are now, in no order.

        Args:
            stamps: Of every row that there is, by id.
            read: Reads the rows of these ids at the same moment.
        """
        kept = self._kept
        stale = [key for key, stamp in stamps.items() if key not in kept or kept[key][0] != stamp]
        if stale or len(kept) != len(stamps):
            news = {row.id: row for row in read(stale)} if stale else {}
            self._kept = {
                key: (stamp, news[key] if key in news else kept[key][1])
                for key, stamp in stamps.items()
            }
        return [row for _, row in self._kept.values()]


@dataclass
class Search:
    """A job's search as this worker left it in the database.

    Attributes:
        explorer: Told everything that `state` holds, and what rows say since.
        state: The saved search state.
        steps: How often the search had proposed when that was saved.
        form: Name of the job's int8 format; None without one.
        skeletons: Plan -> skeleton, by digest.
        heard: Plan -> its screening request as it was when it was looked at last.
        written: Plan -> what its row in the table of candidates says.
    """

    explorer: Explorer
    state: dict[str, Any]
    form: str | None
    steps: int = 0
    skeletons: dict[str, str] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    written: dict[str, Mark] = field(default_factory=dict)

    def changed(self) -> list[Node]:
        """The nodes whose rows are new or say something else by now, by level and digest."""
        written = self.written
        found = [
            node for node in self.explorer.unordered if written.get(node.digest) != mark_of(node)
        ]
        return sorted(found, key=lambda node: (node.level, node.digest))

    def note_written(self, nodes: Iterable[Node]) -> None:
        """The table of candidates holds these nodes as they are."""
        self.written |= {node.digest: mark_of(node) for node in nodes}


def mark_of(node: Node) -> Mark:
    """What of a node's row can change."""
    return node.level, node.kept, node.latency, node.score, node.tuned


class Memory:
    """What is remembered of one job.

    Attributes:
        tasks: Those that score a plan are without their payload.
    """

    def __init__(self) -> None:
        self.tasks: Rows[Task] = Rows()
        self.requests: Rows[Request] = Rows()
        self.found: Rows[Measurement] = Rows()
        self._search: tuple[int, Search] | None = None

    def keep(self, version: int, search: Search) -> None:
        """Leaves the search: the database holds it under this version of the job."""
        self._search = version, search

    def search(self, version: int) -> Search | None:
        """The search, if it was left at this version."""
        if self._search is None or self._search[0] != version:
            return None
        return self._search[1]

    def take(self, version: int) -> Search | None:
        """The same, and it is kept no more: who changes it leaves it again once that is saved."""
        found, self._search = self.search(version), None
        return found
