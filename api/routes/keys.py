"""API keys: made, listed and revoked by an admin."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.auth import Scope, key_token
from api.problems import conflict, invalid_field, not_found
from api.routes.access import Admin
from api.routes.admission import AdmittedRoute
from api.routes.answers import Listing, conditional
from api.routes.edge import Reading, Writing
from api.routes.views import KeyView, NewKeyView
from jobs.columns import database_time
from jobs.repository import keys
from jobs.validation import UtcMoment

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=AdmittedRoute)


class KeyRequest(BaseModel):
    """A key to make. A time without a zone is read as UTC."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    scopes: list[Scope] = Field(min_length=1, max_length=16)
    expires_at: UtcMoment | None = None


@router.post("", status_code=201)
def create_key(body: KeyRequest, edge: Writing, caller: Admin) -> NewKeyView:
    """Make a key. The whole key is shown in this answer only; its hash is kept."""
    if body.expires_at is not None and body.expires_at <= database_time(edge.session):
        message = f"must be in the future, but got {body.expires_at.isoformat()}"
        raise invalid_field("expires_at", message)
    scopes = sorted(set(body.scopes))
    key, secret = keys.create(edge.session, body.name, scopes, expires_at=body.expires_at)
    shown = KeyView.model_validate(key).model_dump()
    return NewKeyView(**shown, key=key_token(key.id, secret))


@router.get("", response_model=Listing[KeyView])
def list_keys(request: Request, session: Reading, caller: Admin) -> Response:
    """Every key without its secret, revoked ones too, oldest first."""
    items = [KeyView.model_validate(row) for row in keys.all_keys(session)]
    return conditional(request, Listing[KeyView](items=items))


@router.delete("/{key_id}", status_code=204)
def revoke_key(key_id: str, edge: Writing, caller: Admin) -> None:
    """End a key at once, by id or name. Ending it again changes nothing."""
    known = keys.all_keys(edge.session)
    found = [key for key in known if key.id == key_id] or [
        key for key in known if key.name == key_id
    ]
    if not found:
        names = [key.name for key in known]
        raise not_found("key", key_id, "GET /v1/keys lists them.", names)
    if len(found) > 1:
        ids = [key.id for key in found]
        detail = f"Several keys have the name {key_id!r}: name one of {', '.join(ids)}."
        raise conflict("ambiguous-name", detail, ids=ids)
    keys.revoke(edge.session, found[0].id, database_time(edge.session))
