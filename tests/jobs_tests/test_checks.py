"""Checks of devices: one way through their states, and never mixed up with jobs."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from jobs.checking import CheckSettings
from jobs.errors import UnknownCursor
from jobs.repository import checks, measurements, requests, skeletons
from jobs.states import CheckState, RequestState
from jobs.tables import Check, Device, Request
from latency_probes.messages import Settings, Target
from tests.jobs_tests.builders import REFERENCE, at, make_device, make_job, make_request
from tests.jobs_tests.test_requests import GOOD

RUNNING = CheckState.RUNNING


def make_check(session: Session, device: Device, *, seconds: float = 0) -> Check:
    skeletons.add(session, REFERENCE, 10, "skeletons/a")
    return checks.create(
        session,
        device.id,
        workload="net",
        skeleton_digest=REFERENCE,
        target=Target(),
        settings=CheckSettings.quick(),
        now=at(seconds),
    )


def make_trial(session: Session, check: Check, purpose: str = "screening:0") -> Request:
    return requests.add(
        session,
        None,
        purpose,
        check_id=check.id,
        skeleton_digest=REFERENCE,
        reference_digest=REFERENCE,
        selector=f"id:{check.device_id}",
        target=Target(),
        settings=Settings(),
        now=at(0),
    )


def measure(session: Session, request: Request, device: Device, *, seconds: float = 5) -> None:
    held = requests.assign(session, request.id, device.id, at(0), 30)
    assert held is not None
    assert requests.complete(
        session,
        request.id,
        attempt=held.attempt,
        lease_token=str(held.lease_token),
        device_id=device.id,
        finding=GOOD,
        now=at(seconds),
    )


def test_a_new_check_is_pending_and_says_how_much_it_will_do(session: Session) -> None:
    check = make_check(session, make_device(session))
    assert (check.state, check.progress) == (CheckState.PENDING, {"ended": 0, "of": 6})
    assert check.target_key == "onnxruntime/CPUExecutionProvider/b1/t1"


def test_live_checks_are_found_by_device(session: Session) -> None:
    one, other = make_device(session), make_device(session, "other")
    check = make_check(session, one)
    assert [each.id for each in checks.live(session)] == [check.id]
    assert [each.id for each in checks.live(session, one.id)] == [check.id]
    assert not checks.live(session, other.id)


def test_a_trial_is_asked_once_and_belongs_to_no_job(session: Session) -> None:
    device = make_device(session)
    check, other = make_check(session, device), make_check(session, device)
    trial = make_trial(session, check)
    assert make_trial(session, check).id == trial.id
    assert make_trial(session, other).id != trial.id
    assert [each.id for each in checks.requests_of(session, check.id)] == [trial.id]
    assert (trial.job_id, trial.check_id) == (None, check.id)


def test_what_a_check_measured_is_its_own_and_never_a_cache(session: Session) -> None:
    device = make_device(session)
    check = make_check(session, device)
    measure(session, make_trial(session, check), device)
    (row,) = measurements.for_check(session, check.id)
    assert (row.job_id, row.ratio, row.raw) == (None, 0.7, GOOD.raw)
    assert [each.id for each in measurements.of_device(session, device.id, 9)] == [row.id]
    assert measurements.cached(session, REFERENCE, row) is None


def test_an_ended_check_stays_as_it_ended(session: Session) -> None:
    check = make_check(session, make_device(session))
    trial = make_trial(session, check)
    assert checks.report(session, check.id, RUNNING, {"ended": 0, "of": 6}, "a device")
    assert checks.fail(session, check.id, "it was cancelled", at(9))
    assert not checks.fail(session, check.id, "again", at(10))
    assert not checks.finish(session, check.id, {}, at(10))
    assert not checks.report(session, check.id, RUNNING, {}, None)
    assert (check.state, check.error, check.finished_at) == (
        CheckState.FAILED,
        "it was cancelled",
        at(9),
    )
    assert (check.waiting_for, trial.state) == (None, RequestState.FAILED)


def test_the_last_check_that_found_something_counts(session: Session) -> None:
    device = make_device(session)
    old, new, failed = (make_check(session, device, seconds=each) for each in (0, 1, 2))
    for check in (old, new):
        assert checks.finish(session, check.id, {"screening": 0.01}, at(9))
    checks.fail(session, failed.id, "crashed", at(9))
    found = checks.last_done(session, device.id, old.target_key)
    assert found is not None
    assert (found.id, found.result) == (new.id, {"screening": 0.01})
    assert checks.last_done(session, device.id, "onnxruntime/CPUExecutionProvider/b1/t2") is None


def test_checks_are_paged_newest_first(session: Session) -> None:
    device = make_device(session)
    old, new = make_check(session, device), make_check(session, device, seconds=1)
    page = checks.page(session, device.id, limit=1)
    assert ([each.id for each in page.items], page.next) == ([new.id], new.id)
    rest = checks.page(session, device.id, after=page.next)
    assert ([each.id for each in rest.items], rest.next) == ([old.id], None)
    with pytest.raises(UnknownCursor):
        checks.page(session, device.id, after="chk_none")


def test_the_reference_measured_last_is_that_of_a_search(session: Session) -> None:
    device, job = make_device(session), make_job(session)
    assert checks.last_reference(session, device.id) is None
    measure(session, make_request(session, job, "screening:a"), device, seconds=1)
    measure(session, make_request(session, job, "final:a"), device, seconds=2)
    measure(session, make_trial(session, make_check(session, device)), device, seconds=3)
    found = checks.last_reference(session, device.id)
    assert found is not None
    assert (found.model, found.digest, found.target) == ("net", REFERENCE, Target())


def test_the_dense_skeleton_of_a_model_is_what_its_last_job_had_measured(
    session: Session,
) -> None:
    job = make_job(session)
    assert checks.dense_skeleton(session, job.model_id) is None
    make_request(session, job, "dense")
    found = checks.dense_skeleton(session, job.model_id)
    assert found is not None
    assert (found.model, found.digest) == ("net", REFERENCE)
