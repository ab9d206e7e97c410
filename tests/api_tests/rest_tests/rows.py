"""Rows and files to read back through the API."""

from __future__ import annotations

from datetime import timedelta

from api.auth import DEVICE_PREFIX
from jobs.artifacts import job_file_name
from jobs.columns import utc_now
from jobs.repository import artifacts, devices
from tests.api_tests.rest_tests.service import Service
from tests.jobs_tests.builders import make_job


def new_job(service: Service) -> str:
    """A queued job."""
    with service.rows() as session:
        return make_job(session).id


def job_with_file(service: Service, name: str, data: bytes) -> str:
    """A job that made one file."""
    with service.rows() as session:
        job_id = make_job(session).id
        stored = service.store.put(job_file_name(job_id, name), data)
        artifacts.record(session, job_id, name, stored)
    return job_id


def new_device(service: Service, name: str = "board") -> tuple[str, str]:
    """An enrolled device's id, and its bearer token."""
    now = utc_now()
    with service.rows() as session:
        token = devices.create_token(session, now + timedelta(hours=1))
        enrolled = devices.enrol(
            session, token, name=name, labels={"room": "lab"}, capabilities={}, now=now
        )
    if enrolled is None:
        raise LookupError("token must be good, but was refused")
    device, secret = enrolled
    return device.id, f"{DEVICE_PREFIX}{device.id}_{secret}"
