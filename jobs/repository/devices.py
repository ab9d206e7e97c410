"""Devices: enrolled with a one-off token, seen by their heartbeats, drained and revoked by an
operator."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import case, delete, func, or_, select, update
from sqlalchemy.orm import Session

from jobs.ids import new_secret, sha256_hex
from jobs.repository.writing import changed
from jobs.states import SHUT_OUT, DeviceState
from jobs.tables import Check, Device, EnrolmentToken, Measurement, Request

_GONE = (DeviceState.OFFLINE, *SHUT_OUT)


def create_token(session: Session, expires_at: datetime) -> str:
    """A secret that lets one device enrol before it expires."""
    token = new_secret()
    session.add(EnrolmentToken(sha256=sha256_hex(token), expires_at=expires_at))
    session.flush()
    return token


def enrol(
    session: Session,
    token: str,
    *,
    name: str,
    labels: Mapping[str, str],
    capabilities: Mapping[str, Any],
    now: datetime,
) -> tuple[Device, str] | None:
    """A new device and its secret. None: the token is unknown, expired or used."""
    secret = new_secret()
    device = Device(
        name=name,
        labels=dict(labels),
        capabilities=dict(capabilities),
        secret_sha256=sha256_hex(secret),
        created_at=now,
    )
    where = (
        EnrolmentToken.sha256 == sha256_hex(token),
        EnrolmentToken.used_by.is_(None),
        EnrolmentToken.expires_at > now,
    )
    # The row is locked here, and names its device below, when that exists.
    if session.scalars(select(EnrolmentToken).where(*where).with_for_update()).first() is None:
        return None
    session.add(device)
    session.flush()
    session.execute(update(EnrolmentToken).where(*where).values(used_by=device.id))
    session.refresh(device)
    return device, secret


def find(session: Session, device_id: str) -> Device | None:
    """The device as the database has it now."""
    return session.get(Device, device_id, populate_existing=True)


def named(session: Session, name: str) -> Sequence[Device]:
    """The devices with this name that were not removed, oldest first."""
    return [each for each in all_devices(session) if each.name == name]


def all_devices(session: Session, *, removed: bool = False) -> Sequence[Device]:
    """Every device, revoked ones too, and on demand those that were removed; oldest first."""
    statement = select(Device).order_by(Device.created_at, Device.id)
    if not removed:
        statement = statement.where(Device.state != DeviceState.REMOVED)
    return session.scalars(statement).all()


def present(session: Session) -> Sequence[Device]:
    """The devices that may be given work: online or busy, and not asked to drain; by id."""
    where = (
        Device.state.in_((DeviceState.ONLINE, DeviceState.BUSY)),
        Device.drain_requested.is_(False),
    )
    return session.scalars(select(Device).where(*where).order_by(Device.id)).all()


def alive(session: Session) -> Sequence[Device]:
    """The devices that are heard of, those that drain among them; by id."""
    lives = Device.state.in_((DeviceState.ONLINE, DeviceState.BUSY, DeviceState.DRAINING))
    return session.scalars(select(Device).where(lives).order_by(Device.id)).all()


def verify(session: Session, device_id: str, secret: str) -> Device | None:
    """The device, if the secret is its own and it is not revoked."""
    device = find(session, device_id)
    if device is None or device.state in SHUT_OUT:
        return None
    return device if hmac.compare_digest(device.secret_sha256, sha256_hex(secret)) else None


def heartbeat(session: Session, device_id: str, state: DeviceState, now: datetime) -> bool:
    """Notes that a device lives and what it says it does; one asked to drain stays draining.
    False: it is revoked or unknown."""
    shown = case((Device.drain_requested, DeviceState.DRAINING), else_=state)
    where = (Device.id == device_id, Device.state.not_in(SHUT_OUT))
    return changed(session, update(Device).where(*where).values(state=shown, last_seen=now))


def announce(session: Session, device_id: str, capabilities: Mapping[str, Any]) -> bool:
    """Notes what a device says that it is, in place of what it said before. False: it is revoked
    or unknown."""
    where = (Device.id == device_id, Device.state.not_in(SHUT_OUT))
    values = {"capabilities": dict(capabilities)}
    return changed(session, update(Device).where(*where).values(**values))


def silence(session: Session, seen_before: datetime) -> Sequence[Device]:
    """Marks the devices not seen since then as offline, and returns those that were not
    before."""
    is_silent = or_(
        Device.last_seen < seen_before,
        Device.last_seen.is_(None) & (Device.created_at < seen_before),
    )
    statement = (
        update(Device)
        .where(Device.state.not_in(_GONE), is_silent)
        .values(state=DeviceState.OFFLINE)
        .returning(Device.id)
    )
    ids = session.scalars(statement, execution_options={"synchronize_session": False}).all()
    session.expire_all()
    return session.scalars(select(Device).where(Device.id.in_(ids)).order_by(Device.id)).all()


def drain(session: Session, device_id: str) -> bool:
    """Asks that a device gets no more work. False: unknown, revoked, or asked before."""
    where = (
        Device.id == device_id,
        Device.state.not_in(SHUT_OUT),
        Device.drain_requested.is_(False),
    )
    shown = case((Device.state == DeviceState.OFFLINE, Device.state), else_=DeviceState.DRAINING)
    return changed(session, update(Device).where(*where).values(drain_requested=True, state=shown))


def resume(session: Session, device_id: str) -> bool:
    """Takes a drain back; the next heartbeat shows the device's own state."""
    where = (Device.id == device_id, Device.drain_requested.is_(True))
    return changed(session, update(Device).where(*where).values(drain_requested=False))


def revoke(session: Session, device_id: str) -> bool:
    """Shuts a device out for good. False: unknown, or revoked before."""
    where = (Device.id == device_id, Device.state.not_in(SHUT_OUT))
    return changed(session, update(Device).where(*where).values(state=DeviceState.REVOKED))


def set_problem(session: Session, device_id: str, problem: dict[str, Any]) -> bool:
    """Says what is wrong with a device."""
    return changed(session, update(Device).where(Device.id == device_id).values(problem=problem))


def clear_problem(session: Session, device_id: str) -> bool:
    """Says that nothing is wrong with a device any more. False: nothing was."""
    where = (Device.id == device_id, Device.problem.is_not(None))
    return changed(session, update(Device).where(*where).values(problem=None))


def count_dropped(session: Session, device_id: str) -> int:
    """Counts an answer that was dropped; returns how many there are by now."""
    statement = (
        update(Device)
        .where(Device.id == device_id)
        .values(dropped_answers=Device.dropped_answers + 1)
        .returning(Device.dropped_answers)
    )
    return session.execute(statement).scalar_one_or_none() or 0


def counts(session: Session) -> dict[DeviceState, int]:
    """How many devices are in each state; states without devices are counted as 0."""
    rows = session.execute(select(Device.state, func.count()).group_by(Device.state))
    return dict.fromkeys(DeviceState, 0) | dict(rows.all())


def drop_removed(session: Session) -> None:
    """Deletes the rows of removed devices that nothing names any more."""
    named = [
        select(table.device_id).where(table.device_id == Device.id).exists()
        for table in (Request, Measurement, Check)
    ]
    where = (Device.state == DeviceState.REMOVED, *(~each for each in named))
    gone = session.scalars(select(Device.id).where(*where)).all()
    session.execute(delete(EnrolmentToken).where(EnrolmentToken.used_by.in_(gone)))
    session.execute(delete(Device).where(Device.id.in_(gone)))


def forget_tokens(session: Session, before: datetime) -> None:
    """Drops the enrolment tokens that expired before then and let nobody in."""
    unused = (EnrolmentToken.used_by.is_(None), EnrolmentToken.expires_at < before)
    session.execute(delete(EnrolmentToken).where(*unused))
