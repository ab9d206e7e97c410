"""Who calls: the dependencies that ask for a scope, or for a device's own token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.exc import SQLAlchemyError

from api.auth import DEVICE_PREFIX, KEY_PREFIX, SCOPES, Scope, bearer, grants, parse_token
from api.problems import Problem
from api.routes.edge import Composed, Services
from jobs.columns import database_time
from jobs.database import be_impatient, is_busy
from jobs.repository import devices, keys

LAST_USE_STEP = timedelta(minutes=1)
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="secateur"'}


@dataclass(frozen=True)
class Caller:
    """Whoever sent the request, and what it may do."""

    name: str
    scopes: tuple[str, ...]


def caller_of(request: Request, services: Composed) -> Caller:
    """The owner of the presented key; everybody is the local operator while keys are off."""
    known: Caller | None = getattr(request.state, "caller", None)
    if known is None:  # else asked already, before the body was read
        known = request.state.caller = _identified(request, services)
    return known


def _identified(request: Request, services: Services) -> Caller:
    if services.access.auth == "off":
        return Caller("local", SCOPES)
    text = bearer(request.headers.get("authorization"))
    if text is None:
        detail = "A key is needed: send 'Authorization: Bearer sct_<id>_<secret>'."
        raise Problem(401, "key-required", detail, headers=CHALLENGE)
    if services.access.is_admin_key(text):
        return Caller("operator", SCOPES)
    return _key_owner(text, services)


@dataclass(frozen=True)
class Requirement:
    """A dependency that lets callers with this scope pass; `takes_files`: and send files."""

    scope: Scope
    takes_files: bool = False

    def __call__(self, caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
        """The caller, or 403."""
        if not grants(caller.scopes, self.scope):
            held = ", ".join(caller.scopes) or "none"
            detail = f"The key must have the scope {self.scope!r}, but it has {held}."
            raise Problem(403, "scope-required", detail)
        return caller


def calling_device(request: Request, services: Composed) -> str:
    """The id of the device whose token was presented."""
    text = bearer(request.headers.get("authorization")) or ""
    token = parse_token(text, DEVICE_PREFIX)
    with services.reading() as session:
        device = token and devices.verify(session, token.owner, token.secret)
        if not device:
            detail = "The device token must be valid and not revoked: enrol the device again."
            raise Problem(401, "device-token-required", detail, headers=CHALLENGE)
        return device.id


def _key_owner(text: str, services: Services) -> Caller:
    token = parse_token(text, KEY_PREFIX)
    with services.reading() as session:
        now = database_time(session)
        key = token and keys.verify(session, token.owner, token.secret, now)
    if not key:
        detail = "The key must be known, unexpired and not revoked: ask an admin for a new one."
        raise Problem(401, "key-refused", detail, headers=CHALLENGE)
    if key.last_used_at is None or key.last_used_at < now - LAST_USE_STEP:
        _note_use(services, key.id, now)
    return Caller(key.id, tuple(key.scopes))


def _note_use(services: Services, key_id: str, now: datetime) -> None:
    """Notes when the key was used, to the minute. No request waits for that: the next one of the
    key notes it if the database is busy now."""
    try:
        with services.writing() as session:
            be_impatient(session)
            keys.used(session, key_id, now, unless_since=now - LAST_USE_STEP)
            session.commit()
    except SQLAlchemyError as error:
        if not is_busy(error):
            raise


Reader = Annotated[Caller, Depends(Requirement("read"))]
Submitter = Annotated[Caller, Depends(Requirement("submit"))]
Uploader = Annotated[Caller, Depends(Requirement("submit", takes_files=True))]
Keeper = Annotated[Caller, Depends(Requirement("devices"))]
Admin = Annotated[Caller, Depends(Requirement("admin"))]
CallingDevice = Annotated[str, Depends(calling_device)]
