"""`python -m workers.collector`: one collector until SIGTERM. Several are safe."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading

from redis import Redis

from jobs.settings import Settings
from workers.app import create_celery
from workers.collector.collector import Collector
from workers.collector.streams import Streams
from workers.context import create_context
from workers.sending import celery_sender

SOCKET_TIMEOUT_S = 5.0


def main() -> None:
    """Makes the collector from the environment and runs it."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    settings = Settings()
    send = celery_sender(create_celery(settings))
    context = create_context(settings, send, begun=send.begun, waiting=send.waiting)
    redis = Redis.from_url(settings.redis_url, socket_timeout=SOCKET_TIMEOUT_S)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    owner = f"{socket.gethostname()}-{os.getpid()}"
    Collector(context, Streams(redis), owner).run(stop.is_set)


if __name__ == "__main__":
    main()
