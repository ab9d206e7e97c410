"""The composition root of the service: ``uvicorn api.app:create_app --factory``."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastapi import FastAPI

from api import problems
from api.auth import AccessSettings
from api.broker import Broker
from api.dispatch import CeleryDispatch, Dispatch
from api.guards import EarlyAnswer, HostGuard, TextGuard
from api.routes import (
    artifacts,
    checks,
    datasets,
    devices,
    events,
    health,
    jobs,
    keys,
    models,
    page,
    skeletons,
)
from api.routes.edge import Services
from api.space import MIB, UploadSpace
from api.turns import PATIENCE_S, Turns
from jobs.artifacts import ArtifactStore
from jobs.database import make_engine, reading, writing
from jobs.settings import Settings

ROUTERS = (models, datasets, jobs, events, artifacts, devices, checks, skeletons, keys, health)


def create_app(
    settings: Settings | None = None,
    access: AccessSettings | None = None,
    dispatch: Dispatch | None = None,
    patience_s: float = PATIENCE_S,
) -> FastAPI:
    """The service on the database, broker and store that the environment names.

    Args:
        settings: Where things are kept; from the environment by default.
        access: Keys, hosts and limits; from the environment by default.
        dispatch: Sends steps to the workers; Celery messages by default.
        patience_s: How long a write waits for its turn, and any request for a locked database.
    """
    settings, access = settings or Settings(), access or AccessSettings()
    services = _compose(settings, access, dispatch, patience_s)
    app = FastAPI(
        title="Secateur",
        summary="Prunes a trained network until it meets a latency budget measured on its device.",
        version=_version(),
        lifespan=_lifespan,
        docs_url=None,  # the usual pages load scripts from elsewhere; /openapi.json stays
        redoc_url=None,
    )
    app.state.services = services
    app.add_middleware(TextGuard)
    app.add_middleware(HostGuard, settings=access)
    problems.install(app)
    app.add_middleware(EarlyAnswer)
    for module in ROUTERS:
        app.include_router(module.router)
    page.mount(app)
    return app


def _compose(
    settings: Settings, access: AccessSettings, dispatch: Dispatch | None, patience_s: float
) -> Services:
    writers = writing(make_engine(settings.database_url, patience_s=patience_s))
    store, spool = ArtifactStore(settings.artifact_url), Path(tempfile.gettempdir())
    return Services(
        settings=settings,
        access=access,
        writing=writers,
        reading=reading(writers, patience_s=patience_s),
        dispatch=dispatch or CeleryDispatch(settings.redis_url),
        broker=Broker(settings.redis_url),
        store=store,
        space=UploadSpace(spool, [store.staging_folder], access.min_free_mb * MIB),
        turns=Turns(patience_s=patience_s),
    )


def _version() -> str:
    try:
        return version("secateur")
    except PackageNotFoundError:
        return "0+checkout"


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.services.close()
