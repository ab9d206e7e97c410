"""Keeps the lease of running work alive, so that a long step is not taken for a dead one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from jobs.repository import tasks
from jobs.tables import Task
from workers.context import Context

log = logging.getLogger(__name__)


Renew = Callable[[Session, datetime, float], bool]


@contextmanager
def renewed(context: Context, task: Task) -> Iterator[None]:
    """Renews the task's lease from a thread of its own until the block ends."""

    def renew(session: Session, now: datetime, lease_s: float) -> bool:
        return tasks.renew(session, task.id, task.attempt, now, lease_s)

    with kept(context, task.id, renew):
        yield


@contextmanager
def kept(context: Context, name: str, renew: Renew) -> Iterator[None]:
    """Calls `renew` from a thread of its own, three times a lease, until it says that the lease
    is lost or the block ends."""
    ended = threading.Event()
    arguments = (context, name, renew, ended)
    thread = threading.Thread(target=_keep, args=arguments, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep(context: Context, name: str, renew: Renew, ended: threading.Event) -> None:
    lease_s = context.settings.task_lease_s
    while not ended.wait(lease_s / 3):
        try:
            with context.unit() as unit:
                if not renew(unit.session, context.clock(), lease_s):
                    return
        except SQLAlchemyError as error:
            log.warning("the lease of %s was not renewed: %s", name, error)
