"""A context on SQLite with a list for a broker and a clock that tests set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from jobs.artifacts import ArtifactStore
from jobs.columns import utc_now
from jobs.database import make_engine, reading, writing
from jobs.settings import Settings
from tests.workers_tests.nets import HERE
from workers.context import Context

ALLOWED = (
    "small", "tiny", "tied", "feature_maps", "several", "undecided", "flat", "broken",
    "not_a_network", "sleeper", "crasher", "quitter", "chatty", "stripes", "unreadable", "numbers",
    "tokens", "moved", "faint", "away",
)  # fmt: skip
KILLER = "python:tests.workers_tests.deadly:killer"


@dataclass
class Bench:
    """A context and what a test may look at behind it.

    Attributes:
        messages: Steps that were sent, oldest first.
        now: The time that the context's clock shows; None is the real time.
        is_broker_away: Sending fails while it is set.
    """

    settings: Settings
    engine: Engine
    messages: list[tuple[str, str]] = field(default_factory=list)
    now: datetime | None = None
    is_broker_away: bool = False

    def __post_init__(self) -> None:
        factory = writing(self.engine)
        self.context = Context(
            settings=self.settings,
            writing=factory,
            reading=reading(factory),
            store=ArtifactStore(self.settings.artifact_url),
            send=self._send,
            clock=lambda: self.now or utc_now(),
        )

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that sends nothing."""
        with self.context.writing.begin() as session:
            yield session

    def take_messages(self) -> list[tuple[str, str]]:
        """The messages so far, which are gone afterwards."""
        taken, self.messages[:] = list(self.messages), []
        return taken

    def close(self) -> None:
        self.engine.dispose()
        self.context.reading.kw["bind"].dispose()

    def _send(self, step: str, identifier: str) -> None:
        if self.is_broker_away:
            raise ConnectionError("the broker is away")
        self.messages.append((step, identifier))


def make_bench(home: Path) -> Bench:
    """A bench on the database and the artifacts in `home`."""
    settings = Settings(
        home=home,
        database_url=f"sqlite:///{home / 'secateur.db'}",
        artifact_url=str(home / "artifacts"),
        redis_url="redis://127.0.0.1:1/0",
        allow=frozenset({*(f"{HERE}:{name}" for name in ALLOWED), KILLER}),
    )
    return Bench(settings, make_engine(settings.database_url))
