"""The files that a job made: served for download, and in a sandbox where they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from api.problems import not_found
from api.routes.access import Reader
from api.routes.admission import AdmittedRoute
from api.routes.answers import Listing, conditional
from api.routes.edge import Composed, Reading
from api.routes.jobs import found
from api.routes.views import ArtifactView
from jobs.repository import artifacts

CHUNK_BYTES = 1 << 20
SHOWN = {".html": "text/html; charset=utf-8", ".json": "application/json", ".png": "image/png"}
BINARY = "application/octet-stream"
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=AdmittedRoute)


@router.get("/{job_id}/artifacts", response_model=Listing[ArtifactView])
def list_artifacts(job_id: str, request: Request, session: Reading, caller: Reader) -> Response:
    """The files of a job, by name."""
    rows = artifacts.for_job(session, found(session, job_id).id)
    items = [ArtifactView.model_validate(row) for row in rows]
    return conditional(request, Listing[ArtifactView](items=items))


@router.get("/{job_id}/artifacts/{name}", response_class=Response)
def read_artifact(
    job_id: str, name: str, request: Request, services: Composed, session: Reading, caller: Reader
) -> Response:
    """One file. Its ETag is its SHA-256; pages are shown in a sandbox, without scripts."""
    row = artifacts.find(session, found(session, job_id).id, name)
    if row is None:
        raise not_found("artifact", name, f"GET /v1/jobs/{job_id}/artifacts lists them.")
    suffix = f".{name.rpartition('.')[2].lower()}"
    kind = SHOWN.get(suffix, BINARY)
    headers = {
        "ETag": f'"{row.sha256}"',
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": SANDBOX,
        "X-Content-Type-Options": "nosniff",
    }
    if kind == BINARY:
        headers["Content-Disposition"] = f'attachment; filename="{_plain(name)}"'
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(row.size)
    return StreamingResponse(
        chunks(services.store.open(row.location)), media_type=kind, headers=headers
    )


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """A file's bytes in pieces; it is closed at the end."""
    with file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
