"""A data set function that ends its process; it imports nothing heavy."""

from __future__ import annotations

import os
import signal


def killer(split: str) -> None:
    """Dies as a process does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
