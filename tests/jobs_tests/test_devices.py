"""Devices and keys: enrolled once, believed only with their secret, shown as they are."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.ids import sha256_hex
from jobs.repository import devices, keys
from jobs.states import DeviceState
from jobs.tables import Device
from tests.jobs_tests.builders import at, make_device

ONLINE, BUSY, DRAINING = DeviceState.ONLINE, DeviceState.BUSY, DeviceState.DRAINING


def enrol(session: Session, token: str, *, seconds: float = 0) -> tuple[Device, str] | None:
    return devices.enrol(
        session, token, name="board", labels={"a": "b"}, capabilities={}, now=at(seconds)
    )


class TestEnrolment:
    def test_a_token_enrols_one_device(self, session: Session) -> None:
        token = devices.create_token(session, at(60))
        enrolled = enrol(session, token)
        assert enrolled is not None
        device, secret = enrolled
        assert (device.state, device.labels) == (DeviceState.PENDING, {"a": "b"})
        assert device.secret_sha256 == sha256_hex(secret)
        assert enrol(session, token) is None

    def test_an_expired_or_unknown_token_enrols_none(self, session: Session) -> None:
        token = devices.create_token(session, at(60))
        assert enrol(session, token, seconds=60) is None
        assert enrol(session, "guess") is None
        assert devices.all_devices(session) == []

    def test_a_rolled_back_enrolment_leaves_the_token_good(
        self, factory: sessionmaker[Session]
    ) -> None:
        with factory.begin() as session:
            token = devices.create_token(session, at(60))
        with factory() as session:
            enrol(session, token)
            session.rollback()
        with factory.begin() as session:
            assert enrol(session, token) is not None

    def test_only_its_own_secret_opens(self, session: Session) -> None:
        enrolled = enrol(session, devices.create_token(session, at(60)))
        assert enrolled is not None
        device, secret = enrolled
        assert devices.verify(session, device.id, secret) is device
        assert devices.verify(session, device.id, "guess") is None
        assert devices.verify(session, "dev_x", secret) is None
        devices.revoke(session, device.id)
        assert devices.verify(session, device.id, secret) is None


class TestPresence:
    def test_a_heartbeat_shows_the_device(self, session: Session) -> None:
        device = make_device(session)
        assert devices.heartbeat(session, device.id, ONLINE, at(1))
        assert (device.state, device.last_seen) == (ONLINE, at(1))
        assert devices.present(session) == [device]

    def test_a_silent_device_goes_offline_once(self, session: Session) -> None:
        device = make_device(session)
        devices.heartbeat(session, device.id, BUSY, at(1))
        assert devices.silence(session, at(1)) == []
        assert devices.silence(session, at(2)) == [device]
        assert devices.silence(session, at(3)) == []
        assert device.state == DeviceState.OFFLINE
        devices.heartbeat(session, device.id, ONLINE, at(4))
        assert device.state == ONLINE

    def test_a_device_that_never_spoke_goes_offline_too(self, session: Session) -> None:
        device = make_device(session)
        assert devices.silence(session, at(1)) == [device]

    def test_a_drained_device_stays_so_until_resumed(self, session: Session) -> None:
        device = make_device(session)
        devices.heartbeat(session, device.id, ONLINE, at(1))
        assert devices.drain(session, device.id)
        assert not devices.drain(session, device.id)
        devices.heartbeat(session, device.id, ONLINE, at(2))
        assert device.state == DRAINING
        assert devices.present(session) == []
        assert devices.resume(session, device.id)
        devices.heartbeat(session, device.id, ONLINE, at(3))
        assert devices.present(session) == [device]

    def test_a_device_that_drains_itself_comes_back(self, session: Session) -> None:
        device = make_device(session)
        devices.heartbeat(session, device.id, DRAINING, at(1))
        assert devices.present(session) == []
        devices.heartbeat(session, device.id, ONLINE, at(2))
        assert devices.present(session) == [device]

    def test_a_revoked_device_is_heard_no_more(self, session: Session) -> None:
        device = make_device(session)
        assert devices.revoke(session, device.id)
        assert not devices.revoke(session, device.id)
        assert not devices.heartbeat(session, device.id, ONLINE, at(1))
        assert not devices.drain(session, device.id)
        assert devices.silence(session, at(9)) == []
        assert device.state == DeviceState.REVOKED

    def test_a_problem_is_shown_and_cleared(self, session: Session) -> None:
        device = make_device(session)
        assert devices.set_problem(session, device.id, {"title": "hot"})
        assert device.problem == {"title": "hot"}
        assert devices.clear_problem(session, device.id)
        assert not devices.clear_problem(session, device.id)
        assert device.problem is None

    def test_counts_name_every_state(self, session: Session) -> None:
        make_device(session)
        counts = devices.counts(session)
        assert set(counts) == set(DeviceState)
        assert counts[DeviceState.PENDING] == 1


class TestKeys:
    def test_only_its_own_secret_opens(self, session: Session) -> None:
        key, secret = keys.create(session, "ci", ["jobs:read"], now=at(0))
        assert key.secret_sha256 != secret
        assert keys.verify(session, key.id, secret, at(1)) is key
        assert keys.verify(session, key.id, "guess", at(1)) is None
        assert keys.verify(session, "key_x", secret, at(1)) is None

    def test_an_expired_key_is_refused(self, session: Session) -> None:
        key, secret = keys.create(session, "ci", [], expires_at=at(60))
        assert keys.verify(session, key.id, secret, at(59)) is key
        assert keys.verify(session, key.id, secret, at(60)) is None

    def test_a_revoked_key_is_refused(self, session: Session) -> None:
        key, secret = keys.create(session, "ci", [])
        assert keys.revoke(session, key.id, at(1))
        assert not keys.revoke(session, key.id, at(2))
        assert (key.revoked_at, keys.verify(session, key.id, secret, at(3))) == (at(1), None)

    @pytest.mark.parametrize(("seconds", "is_noted"), [(30, False), (90, True)])
    def test_the_last_use_is_noted_now_and_then(
        self, session: Session, seconds: float, is_noted: bool
    ) -> None:
        key, _ = keys.create(session, "ci", [])
        assert keys.used(session, key.id, at(0), unless_since=at(-60))
        noted = keys.used(session, key.id, at(seconds), unless_since=at(seconds - 60))
        assert noted is is_noted

    def test_all_are_listed(self, session: Session) -> None:
        old, _ = keys.create(session, "old", [], now=at(0))
        new, _ = keys.create(session, "new", [], now=at(1))
        assert keys.all_keys(session) == [old, new]
