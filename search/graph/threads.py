"""How many threads torch computes with. It knows nothing of what is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on the calling thread alone; afterwards as before.

    EVIDENCE

    Torch keeps the number for each thread, and gives new ones that which was set last: a thread
    that starts inside has one too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
