"""The edge of a request: sessions that commit here, and steps that are sent after the commit.

It must not know any one route.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session, sessionmaker

from api.auth import AccessSettings
from api.broker import Broker
from api.dispatch import Dispatch
from api.space import UploadSpace
from api.turns import Turns
from jobs.artifacts import ArtifactStore
from jobs.settings import Settings


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
    """A writing session, and the steps to send once it is committed."""

    session: Session
    outbox: list[tuple[str, str]] = field(default_factory=list)

    def after_commit(self, step: str, identifier: str) -> None:
        """Send this step if, and only if, the commit succeeds."""
        self.outbox.append((step, identifier))


def services_of(request: Request) -> Services:
    """The application's services."""
    services: Services = request.app.state.services
    return services


Composed = Annotated[Services, Depends(services_of)]


def _read(services: Composed) -> Iterator[Session]:
    with services.reading() as session:
        yield session


async def _write(services: Composed) -> AsyncIterator[Edge]:
    async with services.turns.turn():
        edge = Edge(services.writing())
        try:
            yield edge
            await run_in_threadpool(edge.session.commit)
        finally:
            await run_in_threadpool(edge.session.close)
    if edge.outbox:
        await run_in_threadpool(_send, services, edge)


def _send(services: Services, edge: Edge) -> None:
    for step, identifier in edge.outbox:
        services.dispatch.send(step, identifier)


# Scope "function": committed before the response leaves, so that a failed commit is answered too.
Reading = Annotated[Session, Depends(_read, scope="function")]
Writing = Annotated[Edge, Depends(_write, scope="function")]
