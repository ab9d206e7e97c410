"""How many threads torch computes with. It knows nothing of what is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on the calling thread alone; afterwards as before.

    Beside other work, threads that wait for each other by spinning cost more than they give. On
    two cores with three busy processes, ResNet-20 took 4.2 s of processor time and 18 s on one
    thread, 7.3 s and 33 s on two; with four, 3.6 s and 34 s against 8.3 s and 65 s. A thin
    ResNet-50 was traced on one thread within 17 s of processor time; on two, 60 s gave
    no result.

    Torch keeps the number for each thread, and gives a thread that uses torch for the first time
    the number that was set last, in whichever thread. So a thread that does that inside computes
    alone too, and goes on so afterwards: only the calling thread gets its number back. Such a
    thread has to call `torch.set_num_threads` itself.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
