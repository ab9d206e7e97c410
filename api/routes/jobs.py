"""Jobs: submitted once per Idempotency-Key, listed, polled, stopped, cancelled; their trees."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ValidationError
from sqlalchemy.orm import Session

from api.problems import Problem, conflict, invalid_field, not_found
from api.routes.access import Reader, Submitter
from api.routes.admission import AdmittedRoute
from api.routes.answers import (
    After,
    IdempotencyKey,
    Limit,
    Listing,
    conditional,
    conditional_on,
    once,
)
from api.routes.edge import Composed, Edge, Reading, Writing, clear_after
from api.routes.models import rejected
from api.routes.views import CandidateDetail, CandidateView, JobView, TreeView
from jobs import removal
from jobs.errors import FieldProblem, SpecError
from jobs.fitting import check_constraints
from jobs.near import near
from jobs.queues import ADVANCE
from jobs.repository import (
    candidates,
    datasets,
    devices,
    inputs,
    jobs,
    measurements,
    models,
    tasks,
)
from jobs.resolving import resolved_spec
from jobs.spec import BudgetSpec, JobSpec, ResolveSpec
from jobs.states import TERMINAL, InputState, JobState
from jobs.status import request_cancel, request_stop
from jobs.tables import Dataset, Job, Model
from jobs.targets import check_targets

MAX_VERSION = 2**31 - 1  # of a column
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=AdmittedRoute)


@router.post("", status_code=202, response_model=JobView)
def submit_job(
    spec: JobSpec, edge: Writing, caller: Submitter, idempotency_key: IdempotencyKey = None
) -> Response:
    """Submit a pruning job; poll its ``Location``.

    On a model or data set that is still being checked the job waits for the verdict; on a
    rejected one it is refused with the problem found. Constraints that exclude each other, and a
    target that no registered device serves, are refused with what would do. Repeated with the
    same ``Idempotency-Key`` and the same body within 24 h, the first answer is given again.
    """

    def work() -> tuple[str, BaseModel]:
        job = _create(edge, spec)
        return f"/v1/jobs/{job.id}", JobView.model_validate(job)

    scope = f"POST /v1/jobs {caller.name}"
    return once(edge, scope, idempotency_key, spec.model_dump(mode="json"), work)


@router.get("", response_model=Listing[JobView])
def list_jobs(
    request: Request,
    session: Reading,
    caller: Reader,
    after: After = None,
    limit: Limit = 50,
    state: Annotated[JobState | None, Query(description="only jobs in this state")] = None,
) -> Response:
    """Jobs, newest first."""
    page = jobs.page(session, after=after, limit=limit, state=state)
    items = [JobView.model_validate(row) for row in page.items]
    return conditional(request, Listing[JobView](items=items, next=page.next))


@router.get("/{job_id}", response_model=JobView)
def read_job(job_id: str, request: Request, session: Reading, caller: Reader) -> Response:
    """One job, by id or name: state, progress, what it waits for, its result or problem.

    Where several have the name, it is the newest. Poll by ETag.
    """
    return conditional(request, JobView.model_validate(found(session, job_id)))


@router.get("/{job_id}/tree", response_model=TreeView)
def read_tree(
    job_id: str,
    request: Request,
    session: Reading,
    caller: Reader,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_VERSION, description="the `version` of the answer before")
    ] = None,
) -> Response:
    """The candidates with what was measured of them; level 0 are single groups' measurements.

    With ``after`` only those that changed since; where the answer is ``whole`` all the same, the
    tree began anew. Poll so, or by ETag.
    """
    job = found(session, job_id)
    dense_ms = _dense_ms(session, job)
    budget_ratio = _budget_ratio(job, dense_ms)
    fields = sorted(CandidateView.model_fields)

    def work() -> bytes:
        began = candidates.first_version(session, job.id)
        is_whole = after is None or (began is not None and began > after)
        rows = candidates.changes(session, job.id, -1 if after is None else after)
        view = TreeView(
            job_id=job.id,
            version=job.version,
            whole=is_whole,
            budget_ratio=budget_ratio,
            dense_latency_ms=dense_ms,
            items=[CandidateView.model_validate(row) for row in rows],
        )
        return view.model_dump_json().encode()

    known = repr((job.id, job.version, after, budget_ratio, dense_ms, fields))
    return conditional_on(request, known.encode(), work)


@router.get("/{job_id}/tree/{digest}", response_model=CandidateDetail)
def read_candidate(
    job_id: str, digest: str, request: Request, session: Reading, caller: Reader
) -> Response:
    """One candidate of the tree, by the digest of its plan, with its widths."""
    job = found(session, job_id)
    row = candidates.find(session, job.id, digest)
    if row is None:
        raise not_found("candidate", digest, f"GET /v1/jobs/{job.id}/tree lists them.")
    plan, shown = row.plan or {}, CandidateView.model_validate(row).model_dump()
    detail = CandidateDetail(
        **shown,
        widths=plan.get("widths", {}),
        int8=plan.get("int8", []),
        steps=plan.get("steps", 0),
    )
    return conditional(request, detail)


@router.post("/{job_id}/resolve", status_code=202, response_model=JobView)
def resolve_job(
    job_id: str,
    other: ResolveSpec,
    edge: Writing,
    caller: Submitter,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answer another budget from what a job has found out, whether it has ended or not.

    A new job with the same model, data, target and settings, on another device where one is
    named: it measures no network again that the device has measured, and takes over the losses
    that were found so far.
    """

    def work() -> tuple[str, BaseModel]:
        source = found(edge.session, job_id)
        job = _resolved(edge, resolved_spec(source, other.further, other.name))
        tasks.copy_losses(edge.session, source.id, job.id)
        return f"/v1/jobs/{job.id}", JobView.model_validate(job)

    scope = f"POST /v1/jobs/{job_id}/resolve {caller.name}"
    return once(edge, scope, idempotency_key, other.model_dump(mode="json"), work)


@router.post("/{job_id}/stop", status_code=202)
def stop_job(job_id: str, edge: Writing, caller: Submitter) -> JobView:
    """Ask the job to finish with the best it has. Asking again changes nothing."""
    job = found(edge.session, job_id)
    if job.state in TERMINAL:
        raise _over(job)
    if request_stop(edge.session, job.id):
        edge.after_commit(ADVANCE, job.id)
    return JobView.model_validate(found(edge.session, job.id))


@router.post("/{job_id}/cancel", status_code=202)
def cancel_job(job_id: str, edge: Writing, caller: Submitter) -> JobView:
    """End the job without a result, at once: no worker is needed. Asking again changes nothing."""
    asked = found(edge.session, job_id).id
    if request_cancel(edge.session, asked):
        edge.after_commit(ADVANCE, asked)  # for the files that only its tasks needed
    job = found(edge.session, asked)
    if job.state != JobState.CANCELLED:
        raise _over(job)
    return JobView.model_validate(job)


@router.delete("/{job_id}", status_code=204)
def remove_job(job_id: str, services: Composed, edge: Writing, caller: Submitter) -> None:
    """Remove a job that has ended, with its files, its log and its measurements.

    Later jobs can no longer reuse what it measured.
    """
    remains = removal.remove_job(edge.session, found(edge.session, job_id).id)
    clear_after(services, edge, remains)


def found(session: Session, id_or_name: str) -> Job:
    """The job with this id or, failing that, the newest with this name, or 404."""
    job = jobs.find_named(session, id_or_name)
    if job is None:
        known = jobs.names(session)
        raise not_found("job", id_or_name, "GET /v1/jobs lists them.", known)
    return job


def _create(edge: Edge, spec: JobSpec) -> Job:
    model, dataset = _inputs(edge.session, spec)
    if model.state == InputState.REJECTED:
        raise rejected("model", model.name, model.problem)
    if dataset.state == InputState.REJECTED:
        raise rejected("dataset", dataset.name, dataset.problem)
    check_constraints(spec, model.report)
    check_targets(spec, devices.all_devices(edge.session))
    if not inputs.hold(edge.session, Model, model.id):
        raise not_found("model", model.name, "It was removed just now.")
    if not inputs.hold(edge.session, Dataset, dataset.id):
        raise not_found("data set", dataset.name, "It was removed just now.")
    job = jobs.create(edge.session, spec, model_id=model.id, dataset_id=dataset.id)
    edge.after_commit(ADVANCE, job.id)
    return found(edge.session, job.id)


def _resolved(edge: Edge, spec: JobSpec) -> Job:
    """The same of a document that names the device by itself, not in a target."""
    try:
        return _create(edge, spec)
    except SpecError as error:
        raise SpecError(
            [
                FieldProblem(
                    each.field.removeprefix("target."), each.message.removeprefix("target.")
                )
                for each in error.problems
            ]
        ) from None


def _inputs(session: Session, spec: JobSpec) -> tuple[Model, Dataset]:
    model, dataset = models.find(session, spec.model), datasets.find(session, spec.dataset)
    if model is None:
        known = near(spec.model, inputs.names(session, Model))
        raise invalid_field("model", f"must name a known model, but got {spec.model!r}{known}")
    if dataset is None:
        known = near(spec.dataset, inputs.names(session, Dataset))
        raise invalid_field(
            "dataset", f"must name a known data set, but got {spec.dataset!r}{known}"
        )
    return model, dataset


def _over(job: Job) -> Problem:
    detail = f"The job has ended ({job.state}): it can no longer be stopped or cancelled."
    return conflict("job-over", detail, state=job.state)


def _dense_ms(session: Session, job: Job) -> float | None:
    """The dense latency as the workers tell it; until then, the first reference measured."""
    for document in (job.result, job.progress):
        told = (document or {}).get("dense_latency_ms")
        if isinstance(told, int | float):
            return float(told)
    return measurements.first_reference_ms(session, job.id)


def _budget_ratio(job: Job, dense_ms: float | None) -> float | None:
    for document in (job.progress, job.result):
        told = (document or {}).get("budget_ratio")
        if isinstance(told, int | float):
            return float(told)
    try:
        budget = BudgetSpec.model_validate((job.spec or {}).get("budget"))
    except ValidationError:  # another version's job can be looked at, all the same
        return None
    if budget.ratio is not None:
        return budget.ratio
    return budget.latency_ms / dense_ms if budget.latency_ms and dense_ms else None
