"""The edge of a request: sessions that commit here, steps that are sent and files that go after
the commit, and files that go because there was none.

It must not know any one route.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from anyio import CancelScope
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session, sessionmaker

from api.auth import AccessSettings
from api.broker import Broker
from api.dispatch import Dispatch
from api.space import UploadSpace
from api.turns import Turn, Turns
from jobs import removal
from jobs.artifacts import ArtifactStore
from jobs.settings import Settings

Action = Callable[[], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """What the application was composed of."""

    settings: Settings
    access: AccessSettings
    writing: sessionmaker[Session]
    reading: sessionmaker[Session]
    dispatch: Dispatch
    broker: Broker
    store: ArtifactStore
    space: UploadSpace
    turns: Turns

    def close(self) -> None:
        """Give all connections back."""
        self.broker.close()
        self.dispatch.close()
        for sessions in (self.writing, self.reading):
            sessions.kw["bind"].dispose()


@dataclass
class Edge:
    """A writing session, the steps to send once it is committed, and what else follows its end."""

    session: Session
    turn: Turn
    outbox: list[tuple[str, str]] = field(default_factory=list)
    kept: list[Action] = field(default_factory=list)
    undone: list[Action] = field(default_factory=list)

    def after_commit(self, step: str, identifier: str) -> None:
        """Send this step if, and only if, the commit succeeds."""
        self.outbox.append((step, identifier))

    def on_commit(self, action: Action) -> None:
        """Do this if, and only if, the commit succeeds."""
        self.kept.append(action)

    def on_rollback(self, action: Action) -> None:
        """Do this if the request fails or its commit does. A commit whose answer was lost may have
        succeeded: the action must look."""
        self.undone.append(action)


def clear_after(services: Services, edge: Edge, remains: removal.Remains) -> None:
    """Remove the files of what is removed, once that is committed."""
    edge.on_commit(
        partial(removal.clear, remains, services.store, services.writing, services.settings)
    )


def services_of(request: Request) -> Services:
    """The application's services."""
    services: Services = request.app.state.services
    return services


Composed = Annotated[Services, Depends(services_of)]


def _read(services: Composed) -> Iterator[Session]:
    with services.reading() as session:
        yield session


async def _write(services: Composed) -> AsyncIterator[Edge]:
    async with services.turns.turn() as turn:
        edge = Edge(services.writing(), turn)
        try:
            yield edge
            await run_in_threadpool(edge.session.commit)
        except BaseException:
            with CancelScope(shield=True):
                await run_in_threadpool(_undo, edge)
            raise
        finally:
            with CancelScope(shield=True):
                await run_in_threadpool(edge.session.close)
    if edge.kept or edge.outbox:
        await run_in_threadpool(_keep, services, edge)


def _undo(edge: Edge) -> None:
    edge.session.rollback()
    _follow(edge.undone)


def _keep(services: Services, edge: Edge) -> None:
    _follow(edge.kept)
    for step, identifier in edge.outbox:
        services.dispatch.send(step, identifier)


def _follow(actions: list[Action]) -> None:
    """What cannot be done is left to the collector's sweep."""
    for action in actions:
        try:
            action()
        except Exception as error:
            log.warning("files of a request were left behind, the sweep will find them: %s", error)


# Scope "function": committed before the response leaves, so that a failed commit is answered too.
Reading = Annotated[Session, Depends(_read, scope="function")]
Writing = Annotated[Edge, Depends(_write, scope="function")]
