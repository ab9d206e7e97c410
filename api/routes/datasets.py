"""Data sets: a path on the server or an uploaded archive, checked by a worker, listed and read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.datastructures import FormData, UploadFile

from api.problems import AS_JSON, Problem, invalid, invalid_field, not_found
from api.routes.access import Reader, Submitter, Uploader
from api.routes.admission import AdmittedRoute
from api.routes.answers import After, Limit, Listing, conditional
from api.routes.edge import Composed, Reading, Services, Writing, clear_after
from api.routes.uploads import (
    FORM_LIMITS,
    form_files,
    free_name,
    is_taken,
    keep,
    name_taken,
    read_spec,
    refuse_foreign_code,
    refuse_non_archive,
    unless_kept,
)
from api.routes.views import DatasetView
from jobs import removal
from jobs.artifacts import archive_name, dataset_folder
from jobs.data_roots import data_roots
from jobs.errors import SpecError
from jobs.ids import new_id
from jobs.queues import CHECK_DATASET
from jobs.repository import datasets, inputs
from jobs.spec import DatasetSpec, check_path
from jobs.tables import Dataset

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=AdmittedRoute)
FORM = {
    "type": "object",
    "properties": {"spec": {"type": "string"}, "archive": {"type": "string", "format": "binary"}},
    "required": ["spec", "archive"],
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": DatasetSpec.model_json_schema()},
            "multipart/form-data": {"schema": FORM},
        },
    }
}


@dataclass(frozen=True)
class Submitted:
    """The request's body: a spec as JSON text or as a file, and an archive if one came."""

    spec: str | UploadFile
    archive: UploadFile | None


async def submitted(request: Request) -> AsyncIterator[Submitted]:
    """Read either kind of body: JSON alone, or a form with ``spec`` and ``archive``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind == "application/json":
        yield Submitted((await request.body()).decode(errors="replace"), None)
    elif kind == "multipart/form-data":
        async with request.form(**FORM_LIMITS) as form:
            yield _of_form(form)
    else:
        allowed = "application/json or multipart/form-data"
        detail = f"Content-Type must be {allowed}, but got {kind!r}. {AS_JSON}"
        raise Problem(415, "unsupported-media-type", detail)


def _of_form(form: FormData) -> Submitted:
    return Submitted(*form_files(form.get("spec"), form.get("archive"), "archive"))


@router.post("", status_code=202, response_model=DatasetView, openapi_extra=BODY)
def submit_dataset(
    body: Annotated[Submitted, Depends(submitted, scope="function")],
    services: Composed,
    edge: Writing,
    caller: Uploader,
) -> Response:
    """Submit a data set: a ``path`` on the server, or an archive beside the spec.

    The name must be new, or that of a rejected data set, which this one replaces. A worker then
    reads it, and it becomes ``ready`` or ``rejected``.
    """
    spec = read_spec(DatasetSpec, body.spec)
    refuse_foreign_code(spec, services.settings)
    _refuse_foreign_path(spec, services)
    _check_source(spec, body.archive)
    with services.reading() as session:
        if is_taken(datasets.find(session, spec.name)):
            raise name_taken("data set", spec.name)
    dataset_id = new_id("dat")
    folder = dataset_folder(dataset_id)
    edge.on_rollback(unless_kept(services, folder, lambda rows: datasets.find(rows, dataset_id)))
    with edge.turn.left():  # a store may take minutes
        digest = _keep_archive(services, dataset_id, body.archive)
    free_name(services, edge, spec.name, datasets.find(edge.session, spec.name))
    row = datasets.create(edge.session, spec, archive_digest=digest, dataset_id=dataset_id)
    if row is None:
        raise name_taken("data set", spec.name)
    edge.after_commit(CHECK_DATASET, row.id)
    view = DatasetView.model_validate(row).model_dump(mode="json")
    return JSONResponse(view, 202, headers={"Location": f"/v1/datasets/{row.id}"})


@router.get("", response_model=Listing[DatasetView])
def list_datasets(
    request: Request, session: Reading, caller: Reader, after: After = None, limit: Limit = 50
) -> Response:
    """Data sets, newest first."""
    page = datasets.page(session, after=after, limit=limit)
    items = [DatasetView.model_validate(row) for row in page.items]
    return conditional(request, Listing[DatasetView](items=items, next=page.next))


@router.get("/{dataset}", response_model=DatasetView)
def read_dataset(dataset: str, request: Request, session: Reading, caller: Reader) -> Response:
    """One data set, by id or name."""
    return conditional(request, DatasetView.model_validate(found(session, dataset)))


@router.delete("/{dataset}", status_code=204)
def remove_dataset(dataset: str, services: Composed, edge: Writing, caller: Submitter) -> None:
    """Remove a data set, by id or name, with what was uploaded; the name is free again.

    A ``path`` on the server stays as it is. Jobs on it that have ended stay readable; where one
    has not ended, the data set is refused.
    """
    remains = removal.remove_dataset(edge.session, found(edge.session, dataset).id)
    clear_after(services, edge, remains)


def found(session: Session, id_or_name: str) -> Dataset:
    """The data set with this id or name, or 404."""
    dataset = datasets.find(session, id_or_name)
    if dataset is None:
        known = inputs.names(session, Dataset)
        raise not_found("data set", id_or_name, "GET /v1/datasets lists them.", known)
    return dataset


def _refuse_foreign_path(spec: DatasetSpec, services: Services) -> None:
    """422 for a path outside the data roots, saying how to add one."""
    try:
        check_path(spec, data_roots(services.settings, auth=services.access.auth))
    except SpecError as error:
        hint = (
            "Upload an archive instead. The operator adds a folder by starting the service with "
            "`secateur up --data-root DIR`, or in SECATEUR_DATA_ROOTS of the api and the workers."
        )
        raise invalid(error.problems, "path-not-allowed", hint) from None


def _check_source(spec: DatasetSpec, archive: UploadFile | None) -> None:
    if spec.needs_archive and archive is None:
        message = "must be given: a path on the server, or an archive uploaded beside the spec"
        raise invalid_field("path", message)
    if archive is not None:
        if not spec.needs_archive:
            message = "must not come beside a spec that names a path or function"
            raise invalid_field("archive", message)
        refuse_non_archive(archive)


def _keep_archive(services: Services, dataset_id: str, archive: UploadFile | None) -> str | None:
    return keep(services.store, archive_name(dataset_id), archive).sha256 if archive else None
