"""Sends steps by name, each once until it begins. A broker that is away costs a second, not a
hang."""

from __future__ import annotations

import logging

from celery import Celery
from redis.exceptions import RedisError

from jobs.queues import PREFIX, Message, Sent

log = logging.getLogger(__name__)


class CelerySender:
    """Sends on the app's own connection pool, and knows what waits on its broker."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._sent = Sent.at(str(app.conf.broker_url))

    def __call__(self, step: str, identifier: str) -> None:
        """Sends the step for one id, unless it waits already; raises when the broker is away."""
        name = f"{PREFIX}{step}"
        self._sent.send(
            name, identifier, lambda: self._app.send_task(name, args=[identifier], retry=False)
        )

    def begun(self, step: str, identifier: str) -> None:
        """Notes that the step begins. Never raises: the sweep mends the notes."""
        try:
            self._sent.begun(f"{PREFIX}{step}", identifier)
        except RedisError as error:
            log.warning("%s(%s) begins without a note: %s", step, identifier, error)

    def waiting(self) -> set[Message]:
        """The steps and ids that have been sent and have not begun; raises RedisError."""
        return {(name.removeprefix(PREFIX), each) for name, each in self._sent.waiting()}


def celery_sender(app: Celery) -> CelerySender:
    """A sender for the app's broker."""
    return CelerySender(app)
