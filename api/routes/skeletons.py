"""Skeletons for the devices: too large ones and the reference are fetched here, by digest."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from api.problems import not_found
from api.routes.access import CallingDevice
from api.routes.admission import AdmittedRoute
from api.routes.artifacts import chunks
from api.routes.edge import Composed, Reading
from jobs.repository import skeletons

router = APIRouter(prefix="/v1/skeletons", tags=["devices"], route_class=AdmittedRoute)


@router.get("/{digest}", response_class=Response)
def read_skeleton(
    digest: str, services: Composed, session: Reading, device_id: CallingDevice
) -> Response:
    """The ONNX bytes with this SHA-256, for an enrolled device (``Bearer scd_<id>_<secret>``)."""
    row = skeletons.find(session, digest)
    if row is None:
        raise not_found("skeleton", digest)
    headers = {"Content-Length": str(row.size), "ETag": f'"{row.digest}"'}
    headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return StreamingResponse(
        chunks(services.store.open(row.location)),
        media_type="application/octet-stream",
        headers=headers,
    )
