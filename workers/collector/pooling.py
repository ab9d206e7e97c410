"""Lets devices of one kind measure a job together: asks them to join, takes them in, and sets
those aside that drift. The rules are in `jobs.pools`; the job's log says what became of whom.

    waiting requests ──invite──> join:<device> ──observe──> device_joined | device_refused
    screening answers ──observe──> device_aside (its last answers are asked again)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from statistics import median

from pydantic import ValidationError
from sqlalchemy.orm import Session

from jobs import pools as rules
from jobs.pools import Pool
from jobs.repository import devices, jobs, measurements, pools, requests
from jobs.selectors import Selector
from jobs.spec import JobSpec
from jobs.tables import Device, Measurement, Request
from latency_probes.messages import Settings, Target
from workers.context import Context, Unit

# Joining takes a device about as long as so many candidates do.
LEAST_WAITING = 4
log = logging.getLogger(__name__)


def is_pooled(request: Request) -> bool:
    """Whether any device of the job's pool may answer it."""
    return Selector.parse(request.selector).kind == "pool"


def by_job(pending: Iterable[Request]) -> dict[str, list[Request]]:
    """The requests that a pool may answer, by job."""
    found: dict[str, list[Request]] = {}
    for request in pending:
        if request.job_id is not None and is_pooled(request):
            found.setdefault(request.job_id, []).append(request)
    return found


def pools_of(
    session: Session, pending: Sequence[Request], present: Sequence[Device]
) -> Mapping[str | None, Pool]:
    """The pools that these requests wait for, by job. Where nobody else of one is present, those
    that were set aside measure again: better than a job that stops."""
    firsts = {job: Selector.parse(its[0].selector).name for job, its in by_job(pending).items()}
    return {
        job_id: pool
        if any(pool.serves(device.id, firsts[job_id]) for device in present)
        else replace(pool, aside={})
        for job_id, pool in pools.of_jobs(session, firsts).items()
    }


def invite(context: Context, waiting: Sequence[Request], present: Sequence[Device]) -> None:
    """Asks devices to join where a job has more to measure than its pool takes at once."""
    for job_id, its in by_job(waiting).items():
        first = Selector.parse(its[0].selector).name
        others = [device for device in present if device.id != first]
        if len(its) < LEAST_WAITING or not others:
            continue
        try:
            with context.read() as session:
                wanted = _equals(session, job_id, its[0], first, others)
        except ValidationError:  # the spec of another version's job must not hold up the others
            log.exception("%s: nobody can be asked to join", job_id)
            continue
        if wanted:
            with context.unit() as unit:
                for device in wanted:
                    runtime = its[0].target["runtime"]
                    _ask_to_join(unit.session, job_id, runtime, device, context.clock())


def _equals(
    session: Session, job_id: str, request: Request, first: str, others: Sequence[Device]
) -> Sequence[Device]:
    """The devices that the job accepts, that are of the first one's kind, and were not asked."""
    job, model = jobs.find(session, job_id), devices.find(session, first)
    if job is None or model is None:
        return []
    runtime = request.target["runtime"]
    selector = Selector.parse(JobSpec.model_validate(job.spec).target.device)
    kind = rules.kind_of(model.capabilities, model.labels, runtime)
    asked = {each.purpose for each in requests.for_job(session, job.id)}
    return [
        device
        for device in others
        if pools.join_purpose(device.id) not in asked
        and selector.accepts(device.id, device.labels, device.capabilities)
        and rules.kind_of(device.capabilities, device.labels, runtime) == kind
    ]


def _ask_to_join(
    session: Session, job_id: str, runtime: str, device: Device, now: datetime
) -> None:
    dense = requests.dense(session, job_id, runtime)
    if dense is None:
        return
    requests.add(
        session,
        job_id,
        pools.join_purpose(device.id),
        skeleton_digest=dense.skeleton_digest,
        reference_digest=dense.reference_digest,
        selector=f"id:{device.id}",
        target=Target.model_validate(dense.target),
        settings=Settings.strict(seed=Settings.model_validate(dense.settings).seed),
        now=now,
    )


def observe(unit: Unit, request: Request, job_id: str, device_id: str, now: datetime) -> None:
    """Draws the conclusions from a counted answer that ended a request of the job."""
    is_join = request.purpose.startswith(pools.JOIN)
    if not (is_join or is_pooled(request)):
        return
    device = devices.find(unit.session, device_id)
    asked = requests.dense(unit.session, job_id, request.target["runtime"])
    dense = _answer(unit.session, asked)
    if device is None or dense is None:
        return
    if is_join:
        _admit(unit, request, job_id, device, dense, now)
    else:
        _watch(unit, job_id, device, dense, now)


def _answer(session: Session, request: Request | None) -> Measurement | None:
    if request is None or request.measurement_id is None:
        return None
    return measurements.brief(session, request.measurement_id)


def _admit(
    unit: Unit, request: Request, job_id: str, device: Device, dense: Measurement, now: datetime
) -> None:
    found = _answer(unit.session, requests.find(unit.session, request.id))
    if found is None:
        return
    reason = rules.refusal(found, dense)
    log.info("%s: device %s %s", job_id, device.name, reason or "joins")
    kind = pools.JOINED if reason is None else pools.REFUSED
    joined = {"reference_ms": found.reference_ms, "ratio": found.ratio}
    data = joined if reason is None else {"reason": reason}
    pools.note(unit.session, job_id, kind, device, data, now)


def _watch(unit: Unit, job_id: str, device: Device, dense: Measurement, now: datetime) -> None:
    """Sets a device aside whose reference has moved, or whose runtime is another since, unless it
    is the last one."""
    recent = measurements.recent(
        unit.session, job_id, device.id, dense.target_key, rules.DRIFT_WINDOW
    )
    pool = pools.of_job(unit.session, job_id)
    baseline_ms = pool.baselines.get(device.id, dense.reference_ms)
    if device.id in pool.aside or baseline_ms is None:
        return
    reference_ms = [each.reference_ms or baseline_ms for each in recent]
    onset = rules.drift(reference_ms, baseline_ms)
    update = rules.update(recent[-1].runtime_version, dense) if recent else None
    if update is not None:
        onset, reason = len(recent) - 1, update
    elif onset is not None:
        now_ms = median(reference_ms)
        reason = f"its reference latency went from {baseline_ms:.4g} to {now_ms:.4g} ms"
    else:
        return
    if _others(unit.session, pool, device.id, dense.device_id):
        data = {"reason": reason, "asked_again": len(recent[onset:])}
        _set_aside(unit, job_id, device, recent[onset:])
        pools.note(unit.session, job_id, pools.ASIDE, device, data, now)
        log.warning("%s: device %s is set aside: %s", job_id, device.name, reason)
    elif device.id not in pool.drifted:
        pools.note(unit.session, job_id, pools.DRIFTED, device, {"reason": reason}, now)


def _set_aside(unit: Unit, job_id: str, device: Device, drifted: Sequence[Measurement]) -> None:
    """What it measured since it drifted, and what it has been given, is asked again."""
    for each in drifted:
        requests.reopen(unit.session, each.request_id)
    for request in requests.dispatched(unit.session, device.id):
        if request.job_id == job_id and is_pooled(request):
            requests.release(unit.session, request.id, request.attempt)
    unit.send("advance", job_id)


def _others(session: Session, pool: Pool, device_id: str, first: str) -> list[str]:
    """The devices that can go on without this one."""
    present = [device.id for device in devices.present(session)]
    return [each for each in present if each != device_id and pool.serves(each, first)]
