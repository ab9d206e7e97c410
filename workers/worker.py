"""One Celery worker process, `-P solo`: `python -m workers.worker`.

Solo, one process per core, because forking after torch has started its threads deadlocks.
"""

from __future__ import annotations

import logging
import os
import socket

import torch

from jobs.queues import QUEUES
from jobs.settings import Settings
from workers.app import create_celery
from workers.context import create_context
from workers.leftovers import keep_tidy
from workers.sending import celery_sender
from workers.steps import register


def main() -> None:
    """Serves steps until SIGTERM, finishing the one in progress."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    torch.set_num_threads(1)
    settings = Settings()
    app = create_celery(settings)
    send = celery_sender(app)
    context = create_context(settings, send, begun=send.begun, waiting=send.waiting)
    register(app, context)
    keep_tidy(context)
    name = f"worker-{os.getpid()}@{socket.gethostname()}"
    app.worker_main(
        ["worker", "--pool", "solo", "--queues", ",".join(QUEUES), "--hostname", name,
         "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    )  # fmt: skip


if __name__ == "__main__":
    main()
