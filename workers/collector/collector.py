"""Reads what devices report, hands out what jobs ask for, and sweeps. One collector leads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sqlalchemy.exc import OperationalError

from jobs.database import be_impatient
from jobs.repository import devices, leases
from jobs.states import SHUT_OUT
from workers.collector.checking import check_devices
from workers.collector.dispatching import dispatch
from workers.collector.ingesting import ingest
from workers.collector.orphans import Sweep
from workers.collector.streams import Streams
from workers.collector.sweeping import sweep
from workers.context import Context
from workers.retrying import is_passing

LEASE = "collector"
LEADER_LEASE_S = 10.0
SWEEP_S = 5.0
READ_BLOCK_MS = 100
FAILED_PAUSE_S = 0.5
log = logging.getLogger(__name__)


class Collector:
    """One turn at a time, so that a test can drive it.

    Args:
        owner: Names this process among the collectors.
        monotonic: Clock for what is due, in seconds.
    """

    def __init__(
        self,
        context: Context,
        streams: Streams,
        owner: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context, self._streams, self._owner = context, streams, owner
        self._monotonic = monotonic
        self._orphans = Sweep(context, monotonic=monotonic)
        self._lead_until = self._sweep_at = float("-inf")

    def run(self, stopped: Callable[[], bool]) -> None:
        """Turns until told to stop; waits out servers that are away."""
        while not stopped():
            try:
                if not self.turn():
                    time.sleep(1.0)
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("waiting for a server that is away: %s", error)
                self._sweep_at = float("-inf")
                time.sleep(0.5)
        self._retire()

    def _retire(self) -> None:
        """Gives the lead back; where the database is busy or away, it lapses by itself."""
        try:
            with self._context.unit() as unit:
                be_impatient(unit.session)
                leases.release(unit.session, LEASE, self._owner)
        except OperationalError as error:
            log.warning("the lead lapses in %g s: %s", LEADER_LEASE_S, error.orig)

    def turn(self) -> bool:
        """One round; False if another collector leads."""
        if not self._leads():
            return False
        with self._context.read() as session:
            known = devices.all_devices(session, removed=True)
        revoked = {device.id for device in known if device.state in SHUT_OUT}
        secrets = {each.id: each.secret_sha256 for each in known if each.id not in revoked}
        self._streams.ensure_users(secrets, revoked)
        self._do(lambda: self._read(list(secrets)))
        self._do(lambda: check_devices(self._context))
        self._do(lambda: dispatch(self._context, self._streams))
        if self._monotonic() >= self._sweep_at:
            self._do(lambda: sweep(self._context, self._streams))
            self._do(self._orphans.step)
            self._sweep_at = self._monotonic() + SWEEP_S
        return True

    def _do(self, part: Callable[[], object]) -> None:
        """One part of a turn. What it cannot cope with does not keep the others from their work,
        nor end the process, which would only meet it again."""
        try:
            part()
        except Exception as error:
            if is_passing(error):
                raise
            log.exception("a part of this turn failed")
            time.sleep(FAILED_PAUSE_S)

    def _leads(self) -> bool:
        now = self._monotonic()
        if now < self._lead_until - LEADER_LEASE_S / 2:
            return True
        with self._context.unit() as unit:
            leads = leases.take(
                unit.session, LEASE, self._owner, self._context.clock(), LEADER_LEASE_S
            )
        self._lead_until = now + LEADER_LEASE_S if leads else float("-inf")
        return leads

    def _read(self, device_ids: list[str]) -> None:
        entries = self._streams.read(device_ids, block_ms=READ_BLOCK_MS)
        if not device_ids:
            time.sleep(READ_BLOCK_MS / 1000)
        if not entries:
            return
        with self._context.unit() as unit:
            for entry in entries:
                ingest(unit, entry, self._context.clock())
        self._streams.delete(entries)
