"""Sends steps to the workers by name; the one module of the API that imports celery.

A step that cannot be sent is logged and never an error: the database already holds the work, and
the collector's sweep sends what is missing. It must not know what a step does.
"""

from __future__ import annotations

import logging
from typing import Protocol

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from jobs.queues import QUEUE, ROUTES, Sent

BROKER_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)


class Dispatch(Protocol):
    """Something that hands a step to the workers."""

    def send(self, step: str, identifier: str) -> None:
        """Send the step for one id. Never raises: the sweep repairs what was lost."""
        ...

    def close(self) -> None:
        """Give the connections back."""
        ...


class CeleryDispatch:
    """Steps as Celery messages on the broker, JSON, one id each."""

    def __init__(self, broker_url: str) -> None:
        self._celery = Celery("secateur-api", broker=broker_url, set_as_current=False)
        self._celery.conf.update(
            task_serializer="json",
            task_default_queue=QUEUE,
            task_ignore_result=True,
            task_routes=ROUTES,
            broker_connection_timeout=BROKER_TIMEOUT_S,
            broker_transport_options={
                "socket_connect_timeout": BROKER_TIMEOUT_S,
                "socket_timeout": BROKER_TIMEOUT_S,
            },
        )
        self._sent = Sent.at(broker_url, timeout_s=BROKER_TIMEOUT_S)

    def send(self, step: str, identifier: str) -> None:
        """Send the step for one id, unless it waits already; a lost broker is not waited for."""
        try:
            self._sent.send(step, identifier, lambda: self._publish(step, identifier))
        except (KombuError, RedisError, OSError) as error:
            log.warning("%s(%s) was not sent, the sweep will: %s", step, identifier, error)

    def _publish(self, step: str, identifier: str) -> None:
        self._celery.send_task(step, args=[identifier], retry=False)

    def close(self) -> None:
        """Give the broker's connections back."""
        self._celery.close()
        self._sent.close()
