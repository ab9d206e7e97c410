"""The Celery app: JSON messages that carry only an id, late acknowledgement, no result backend.

Steps are short and safe to run twice, because Celery on Redis runs an unacknowledged message
again after the visibility timeout, even while it is still running.
"""

from __future__ import annotations

from celery import Celery

from jobs.queues import QUEUE, ROUTES
from jobs.settings import Settings

VISIBILITY_TIMEOUT_S = 3600


def create_celery(settings: Settings) -> Celery:
    """The app on the broker of `settings`; workers and the collector share it."""
    app = Celery("secateur", broker=settings.redis_url)
    app.conf.update(
        accept_content=["json"],
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "queue_order_strategy": "priority",
            "socket_keepalive": True,
            "health_check_interval": 10,
            # For a message that is sent: the consumer waits for its broker by its own settings.
            "max_retries": 1,
            "interval_start": 0.2,
            "interval_max": 0.2,
        },
        broker_connection_max_retries=None,
        task_acks_late=True,
        task_create_missing_queues=True,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_reject_on_worker_lost=True,
        task_routes=ROUTES,
        task_serializer="json",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_prefetch_multiplier=1,
        worker_soft_shutdown_timeout=30.0,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
    )
    return app
