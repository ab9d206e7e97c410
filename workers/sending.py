"""Sends steps by name. A broker that is away costs a second, not a hang."""

from __future__ import annotations

from celery import Celery

from workers.context import Send


def celery_sender(app: Celery) -> Send:
    """A sender on the app's own connection pool; raises when the broker is away."""

    def send(step: str, identifier: str) -> None:
        app.send_task(f"secateur.{step}", args=[identifier], retry=False)

    return send
