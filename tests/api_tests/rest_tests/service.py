"""The real application on a real socket, over a migrated SQLite database and a folder."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy.orm import Session
from starlette.types import Receive, Scope, Send

from api.app import create_app
from api.auth import AccessSettings
from api.routes.edge import Services
from api.turns import PATIENCE_S
from jobs.artifacts import ArtifactStore
from jobs.settings import Settings

NOBODY = "redis://127.0.0.1:1/0"
START_S = 10.0


@dataclass
class RecordingDispatch:
    """Keeps what would have been sent, with what was committed by then."""

    sent: list[tuple[str, str]] = field(default_factory=list)
    watch: Callable[[str], None] = lambda identifier: None

    def send(self, step: str, identifier: str) -> None:
        self.watch(identifier)
        self.sent.append((step, identifier))

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Service:
    """A running application, and its insides for arranging and checking."""

    client: httpx.Client
    settings: Settings
    services: Services
    dispatch: RecordingDispatch

    @property
    def store(self) -> ArtifactStore:
        return self.services.store

    @contextmanager
    def rows(self) -> Iterator[Session]:
        """A writing session that commits."""
        with self.services.writing.begin() as session:
            yield session


class Stage:
    """One server on a free loopback port; each test puts its own application on it."""

    def __init__(self, listener: socket.socket) -> None:
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.app: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is None:
            raise LookupError("an application must be on the stage, but there is none")
        await self.app(scope, receive, send)


@contextmanager
def running(
    stage: Stage,
    home: Path,
    access: AccessSettings,
    patience_s: float = PATIENCE_S,
    **settings: Any,
) -> Iterator[Service]:
    """The application on the stage until the block ends."""
    dispatch = RecordingDispatch()
    configured = Settings(home=home, **{"redis_url": NOBODY, **settings})
    stage.app = create_app(configured, access, dispatch, patience_s)
    services: Services = stage.app.state.services
    try:
        with httpx.Client(base_url=stage.address) as client:
            yield Service(client, configured, services, dispatch)
    finally:
        services.close()


@contextmanager
def served() -> Iterator[Stage]:
    """A running server with an empty stage."""
    # The protocol is named so that asyncio turns Nagle's delay off, as it does in production.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    stage = Stage(listener)
    config = uvicorn.Config(
        stage,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        _wait(server)
        yield stage
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _wait(server: uvicorn.Server) -> None:
    deadline = time.monotonic() + START_S
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the service must start within {START_S} s")
        time.sleep(0.005)
