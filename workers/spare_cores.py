"""Cores that nobody needs just now, lent to a fine-tuning.

A worker has one thread, because each core has a worker of its own, and the probe's core is left
alone. Towards its end a job trains one network: the other workers have nothing to do then, and the
probe measures nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from jobs.repository import requests, tasks
from workers.context import Context

LOOK_S = 2.0  # after this long a borrower looks again who needs the cores


@contextmanager
def lent(context: Context) -> Iterator[int]:
    """Inside, torch computes on as many threads as there are cores to spare; gives them."""
    threads = threads_to_spare(context)
    if threads == 1:
        yield 1
        return
    own, before = os.sched_getaffinity(0), torch.get_num_threads()
    try:
        os.sched_setaffinity(0, own | set(context.settings.spare_cores))
        torch.set_num_threads(threads)
        yield threads
    finally:
        torch.set_num_threads(before)
        os.sched_setaffinity(0, own)


def threads_to_spare(context: Context) -> int:
    """One while anything is to be measured; else an equal part for each task that runs."""
    cores = context.settings.spare_cores
    if len(cores) < 2 or not hasattr(os, "sched_setaffinity"):
        return 1
    with context.read() as session:
        if requests.any_open(session):
            return 1
        running = tasks.running_count(session)
    return max(1, len(cores) // max(running, 1))
