"""A service per test, on its own copy of a database built by the migrations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from api.auth import AccessSettings
from jobs import migrations
from tests.api_tests.rest_tests.service import Service, Stage, running, served

ADMIN_KEY = "sct_operator_0123456789abcdef0123456789abcdef"
Start = Callable[..., AbstractContextManager[Service]]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an empty database at the present schema."""
    path = tmp_path_factory.mktemp("migrated") / "secateur.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def home(tmp_path: Path, migrated: bytes) -> Path:
    (tmp_path / "secateur.db").write_bytes(migrated)
    return tmp_path


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    with served() as stage:
        yield stage


@pytest.fixture
def start(stage: Stage, home: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a service as configured by the arguments, whatever the environment says."""
    for name in ("DATABASE_URL", "REDIS_URL", "ARTIFACT_URL", "SECATEUR_ALLOW", "SECATEUR_AUTH",
                 "SECATEUR_DATA_ROOTS"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)

    def start_service(
        access: AccessSettings | None = None, **settings: Any
    ) -> AbstractContextManager[Service]:
        return running(stage, home, access or AccessSettings(), **settings)

    return start_service


@pytest.fixture
def service(start: Start) -> Iterator[Service]:
    """A service on loopback that needs no key."""
    with start() as running_service:
        yield running_service


@pytest.fixture
def guarded(start: Start) -> Iterator[Service]:
    """A service that needs keys; the client holds the operator's."""
    with start(AccessSettings(auth="on", admin_key=ADMIN_KEY)) as running_service:
        running_service.client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        yield running_service


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
