"""The edge of a request: sessions that commit here, and steps that are sent after the commit.

It must not know any one route.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session, sessionmaker

from api.auth import AccessSettings
from api.broker import Broker
from api.dispatch import Dispatch
from api.space import UploadSpace
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

    def close(self) -> None:
        """Give all connections back."""
        self.broker.close()
        self.dispatch.close()
        self.writing.kw["bind"].dispose()


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


def _write(services: Composed) -> Iterator[Edge]:
    with services.writing() as session:
        edge = Edge(session)
        yield edge
        session.commit()
    for step, identifier in edge.outbox:
        services.dispatch.send(step, identifier)


# Scope "function": committed before the response leaves, so that a failed commit is answered too.
Reading = Annotated[Session, Depends(_read, scope="function")]
Writing = Annotated[Edge, Depends(_write, scope="function")]
