"""Models: submitted as a spec and safetensors, checked by a worker, listed and read."""

from __future__ import annotations

from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api.onnx_upload import DATA, MAX_DATA_FILES, one_file
from api.problems import Problem, invalid_field, not_found
from api.routes.access import Reader, Submitter, Uploader
from api.routes.admission import AdmittedRoute
from api.routes.answers import After, Limit, Listing, conditional
from api.routes.edge import Composed, Reading, Writing, clear_after
from api.routes.uploads import (
    FORM_LIMITS,
    FormLimits,
    free_name,
    is_taken,
    name_taken,
    read_spec,
    refuse_foreign_code,
    unless_kept,
    upload_size,
)
from api.routes.views import ModelView
from api.weights import check_weights
from jobs import removal
from jobs.artifacts import model_folder, weights_name
from jobs.ids import new_id
from jobs.queues import CHECK_MODEL
from jobs.repository import inputs, models
from jobs.spec import ModelSpec
from jobs.states import InputState
from jobs.tables import Model

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=AdmittedRoute)

LIMITS: FormLimits = {**FORM_LIMITS, "max_files": 2 + MAX_DATA_FILES}


@router.post("", status_code=202, response_model=ModelView, form_limits=LIMITS)
def submit_model(
    spec: Annotated[
        str | UploadFile, Form(description="a ModelSpec as JSON, as text or as a file")
    ],
    weights: Annotated[UploadFile, File(description="a safetensors file, or an ONNX file")],
    services: Composed,
    edge: Writing,
    caller: Uploader,
    data: Annotated[
        list[UploadFile] | None, File(description="the data files of an ONNX file, if it has any")
    ] = None,
) -> Response:
    """Submit a trained network: its architecture in ``spec``, its weights as safetensors.

    With the architecture ``onnx`` the file is an ONNX model, opset 7 to 25, which holds both;
    ``input_shape`` may then be left out where the file says it. Its data files, 64 at most, come
    as parts ``data`` of the same form, each with the file name by which the model calls it,
    relative to its folder. All become one file, of less than 2 GiB.

    The name must be new, or that of a rejected model, which this one replaces.

    The bytes are checked at once; a worker then builds and traces the network, and the model
    becomes ``ready`` or ``rejected``. Jobs may be submitted on it meanwhile: they wait.
    """
    wanted = read_spec(ModelSpec, spec)
    refuse_foreign_code(wanted, services.settings)
    content = _content(wanted, weights, data or [])
    with services.reading() as session:
        if is_taken(models.find(session, wanted.name)):
            raise name_taken("model", wanted.name)
    model_id = new_id("mdl")
    folder = model_folder(model_id)
    edge.on_rollback(unless_kept(services, folder, lambda rows: models.find(rows, model_id)))
    with edge.turn.left():  # a store may take minutes
        stored = services.store.put(weights_name(model_id), content)
    free_name(services, edge, wanted.name, models.find(edge.session, wanted.name))
    model = models.create(edge.session, wanted, weights_digest=stored.sha256, model_id=model_id)
    if model is None:
        raise name_taken("model", wanted.name)
    edge.after_commit(CHECK_MODEL, model.id)
    body = ModelView.model_validate(model).model_dump(mode="json")
    return JSONResponse(body, 202, headers={"Location": f"/v1/models/{model.id}"})


def _content(wanted: ModelSpec, weights: UploadFile, data: list[UploadFile]) -> BinaryIO:
    """What is kept of the files of a form, looked at; read from where it stands."""
    if wanted.is_onnx:
        return one_file(weights, data)
    if data:
        raise invalid_field(DATA, "must come with the architecture onnx alone")
    check_weights(weights.file, upload_size(weights))
    return weights.file


@router.get("", response_model=Listing[ModelView])
def list_models(
    request: Request, session: Reading, caller: Reader, after: After = None, limit: Limit = 50
) -> Response:
    """Models, newest first."""
    page = models.page(session, after=after, limit=limit)
    items = [ModelView.model_validate(row) for row in page.items]
    return conditional(request, Listing[ModelView](items=items, next=page.next))


@router.get("/{model}", response_model=ModelView)
def read_model(model: str, request: Request, session: Reading, caller: Reader) -> Response:
    """One model, by id or name."""
    return conditional(request, ModelView.model_validate(found(session, model)))


@router.delete("/{model}", status_code=204)
def remove_model(model: str, services: Composed, edge: Writing, caller: Submitter) -> None:
    """Remove a model with its files, by id or name; the name is free again.

    Jobs on it that have ended stay readable; where one has not ended, the model is refused.
    """
    remains = removal.remove_model(edge.session, found(edge.session, model).id)
    clear_after(services, edge, remains)


@router.get("/{model}/graph")
def read_graph(model: str, session: Reading, caller: Reader) -> dict[str, Any]:
    """What can be pruned, how much that is, and why the rest cannot be: the report of the check.

    ``groups``, in model order: width, kind, status (``prunable`` without loss of equality,
    ``approximate``, ``frozen``), reason, form (``graph``: a model that lost some of its units is a
    ``PrunedGraph``, not your class), and the ``parameters`` and ``macs`` that its units touch. A
    group of the kind ``block`` is a residual branch, which a job with ``search.blocks`` may remove
    whole; ``removable_blocks`` tells how many can go, and the shares leave all of them in.
    ``frozen``: the frozen groups by cause. ``prunable_parameter_share`` and
    ``prunable_mac_share``, each also ``…_exact`` and ``…_approximate``, say what prunable groups
    touch; ``half_width`` says what is gone when all of them lose half of their units. Where only
    ``parts`` of the model could be traced, ``obstacle`` says why, and MACs are those of the parts.
    A check goes on in rounds until all is verified; where it may not take longer, ``complete`` is
    false, ``unfinished`` names the groups that stay whole, and ``unfinished_because`` says why.
    """
    row = found(session, model)
    if row.state == InputState.REJECTED:
        raise rejected("model", row.name, row.problem)
    if row.report is None:
        detail = f"Model {row.name!r} is still being checked: ask again in a few seconds."
        raise Problem(409, "still-checking", detail, headers={"Retry-After": "2"})
    return row.report


def found(session: Session, id_or_name: str) -> Model:
    """The model with this id or name, or 404."""
    model = models.find(session, id_or_name)
    if model is None:
        known = inputs.names(session, Model)
        raise not_found("model", id_or_name, "GET /v1/models lists them.", known)
    return model


def rejected(what: str, name: str, problem: dict[str, Any] | None) -> Problem:
    """409 with the problem document that the check left."""
    known = problem or {}
    detail = f"The {what} {name!r} was rejected: {known.get('detail', 'no reason was kept')}"
    answer = Problem(409, f"{what}-rejected", detail)
    extra = {key: value for key, value in known.items() if key not in ("status", "detail")}
    answer.document.update(extra, cause=known)
    return answer
