"""A call in a thread of its own, so that whoever needs its result stays responsive meanwhile.

The thread holds nobody up: a process that ends does not wait for it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def aside(function: Callable[[], T]) -> "Future[T]":
    """Starts the call; its result or its exception is in the future once it is done."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
