"""A job's numbered log: as a page of JSON, or followed as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.problems import invalid_field
from api.routes.access import Reader
from api.routes.admission import AdmittedRoute
from api.routes.answers import Limit, Listing, conditional
from api.routes.edge import Composed, Reading, Services
from api.routes.jobs import found
from api.routes.views import EventView
from jobs.repository import events, jobs
from jobs.states import TERMINAL

SSE = "text/event-stream"
BATCH = 100
PAUSE_S = 0.5
KEEP_ALIVE_TURNS = 30
STREAM_TURNS = 1200  # about ten minutes; the client comes back with Last-Event-ID

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=AdmittedRoute)


class EventListing(Listing[EventView]):
    """Events, oldest first; ``next`` is the number to go on after, null at the end."""

    next: int | None = None  # type: ignore[assignment]


@router.get("/{job_id}/events", response_model=EventListing)
def read_events(
    job_id: str,
    request: Request,
    services: Composed,
    session: Reading,
    caller: Reader,
    after: Annotated[
        int, Query(ge=0, le=events.MAX_NUMBER, description="the number of the last event known")
    ] = 0,
    limit: Limit = BATCH,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Events after a number, oldest first.

    With ``Accept: text/event-stream`` the log is followed live as server-sent events, resumed
    after ``Last-Event-ID``; the stream ends with an event ``end`` when the job is over.
    """
    job_id = found(session, job_id).id
    if SSE in accept:
        start = _number(last_event_id) if last_event_id else after
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(follow(services, job_id, start), media_type=SSE, headers=headers)
    items = [EventView.model_validate(row) for row in events.after(session, job_id, after, limit)]
    following = items[-1].number if len(items) == limit else None
    return conditional(request, EventListing(items=items, next=following))


async def follow(services: Services, job_id: str, after: int) -> AsyncIterator[str]:
    """The log after a number as server-sent events, until the job is over."""
    quiet = 0
    for _ in range(STREAM_TURNS):
        batch, over = await anyio.to_thread.run_sync(_fetch, services, job_id, after)
        for event in batch:
            after, quiet = event.number, 0
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
        if over and len(batch) < BATCH:
            yield "event: end\ndata: {}\n\n"
            return
        if len(batch) < BATCH:
            await anyio.sleep(PAUSE_S)
        quiet += 1
        if quiet % KEEP_ALIVE_TURNS == 0:
            yield ": still here\n\n"


def _fetch(services: Services, job_id: str, after: int) -> tuple[list[EventView], bool]:
    with services.reading() as session:
        job = jobs.find(session, job_id)
        rows = events.after(session, job_id, after, BATCH)
        over = job is None or job.state in TERMINAL
        return [EventView.model_validate(row) for row in rows], over


def _number(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) < 16
    if not is_number or int(text) > events.MAX_NUMBER:
        raise invalid_field("Last-Event-ID", f"must be the number of an event, but got {text!r}")
    return int(text)
