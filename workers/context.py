"""What every step is given: settings, sessions, the artifact store and a sender."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.columns import database_time
from jobs.database import reading, sessions
from jobs.queues import Message
from jobs.settings import Settings

Send = Callable[[str, str], None]
Waiting = Callable[[], Collection[Message]]
log = logging.getLogger(__name__)


def _nothing(_step: str, _identifier: str) -> None:
    """Where no broker notes what was sent."""


@dataclass
class Unit:
    """One transaction and the messages that leave only if it commits."""

    session: Session
    messages: list[tuple[str, str]] = field(default_factory=list)

    def send(self, step: str, identifier: str) -> None:
        """Notes that `secateur.<step>` is to be sent with this id after the commit."""
        self.messages.append((step, identifier))


@dataclass(frozen=True)
class Context:
    """The effects that a step may have.

    Attributes:
        send: Sends one step by name to the broker; may raise when the broker is away.
        clock: The time that is written into rows and compared with theirs: the database's, so
            that a machine whose clock is wrong steals no lease.
        begun: Told of a step and its id when that begins, so that it may be sent again.
        waiting: The steps and ids that the broker holds and nobody has begun.
    """

    settings: Settings
    writing: sessionmaker[Session]
    reading: sessionmaker[Session]
    store: ArtifactStore
    send: Send
    clock: Callable[[], datetime]
    begun: Send = _nothing
    waiting: Waiting = frozenset

    @contextmanager
    def unit(self) -> Iterator[Unit]:
        """A writing transaction; its messages are sent after the commit and dropped on rollback.

        A message that cannot be sent is only logged: the collector's sweep sends what is missing.
        """
        with self.writing.begin() as session:
            unit = Unit(session)
            yield unit
        for step, identifier in dict.fromkeys(unit.messages):
            try:
                self.send(step, identifier)
            except Exception as error:
                log.warning("%s(%s) was not sent, the sweep will: %s", step, identifier, error)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that takes no lock and cannot write."""
        with self.reading() as session:
            yield session


def create_context(
    settings: Settings, send: Send, *, begun: Send = _nothing, waiting: Waiting = frozenset
) -> Context:
    """The context of a process on the databases that `settings` names."""
    writing = sessions(settings)
    looking = reading(writing)

    def clock() -> datetime:
        with looking() as session:
            return database_time(session)

    return Context(
        settings=settings,
        writing=writing,
        reading=looking,
        store=ArtifactStore(settings.artifact_url),
        send=send,
        clock=clock,
        begun=begun,
        waiting=waiting,
    )
