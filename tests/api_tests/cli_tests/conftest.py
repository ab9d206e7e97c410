"""A real API on loopback with its own database, without broker and workers: rows come by hand."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from api.auth import AccessSettings
from api.cli.main import main
from jobs.artifacts import ArtifactStore
from jobs.database import make_engine, writing
from jobs.migrations import upgrade
from jobs.settings import Settings

Secateur = Callable[..., int]


@dataclass
class Sent:
    """Remembers the steps that would have gone to the workers."""

    steps: list[tuple[str, str]] = field(default_factory=list)

    def send(self, step: str, identifier: str) -> None:
        self.steps.append((step, identifier))

    def close(self) -> None:
        """Nothing to give back."""


@dataclass(frozen=True)
class Served:
    """Where the API is, and its database and store from the inside."""

    url: str
    sessions: sessionmaker[Session]
    store: ArtifactStore
    sent: Sent


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at the present schema, to copy."""
    path = tmp_path_factory.mktemp("migrated") / "secateur.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def api(tmp_path: Path, migrated: Path) -> Iterator[Served]:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(migrated, home / "secateur.db")
    database_url = f"sqlite:///{home / 'secateur.db'}"
    settings = Settings(
        home=home,
        database_url=database_url,
        artifact_url=str(home / "artifacts"),
        redis_url="redis://127.0.0.1:1/0",
        allow=frozenset({"python:examples.resnet20:resnet20"}),
    )
    sent = Sent()
    app = create_app(settings, AccessSettings(auth="off"), sent)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    engine = make_engine(database_url)
    store = ArtifactStore(settings.artifact_url)
    yield Served(f"http://127.0.0.1:{port}", writing(engine), store, sent)
    engine.dispose()
    server.should_exit = True
    thread.join()


@pytest.fixture
def secateur(api: Served, monkeypatch: pytest.MonkeyPatch) -> Secateur:
    """Runs the command line against the API and returns its exit code."""
    monkeypatch.setenv("SECATEUR_URL", api.url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return int(ended.value.code or 0)

    return run
