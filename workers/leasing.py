"""Keeps the lease of a running task alive, so that a long step is not taken for a dead one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from jobs.repository import tasks
from jobs.tables import Task
from workers.context import Context

log = logging.getLogger(__name__)


@contextmanager
def renewed(context: Context, task: Task) -> Iterator[None]:
    """Renews the task's lease from a thread of its own until the block ends."""
    ended = threading.Event()
    arguments = (context, task.id, task.attempt, ended)
    thread = threading.Thread(target=_renew, args=arguments, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _renew(context: Context, task_id: str, attempt: int, ended: threading.Event) -> None:
    lease_s = context.settings.task_lease_s
    while not ended.wait(lease_s / 3):
        try:
            with context.unit() as unit:
                if not tasks.renew(unit.session, task_id, attempt, context.clock(), lease_s):
                    return
        except SQLAlchemyError as error:
            log.warning("the lease of %s was not renewed: %s", task_id, error)
