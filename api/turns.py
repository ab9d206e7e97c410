"""How many requests write at a time, so that the others never wait behind them for a thread.

A request that waits for its turn is a coroutine and holds nothing. It must not know the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from api.problems import database_busy

# Fewer than the engine has connections (15), and than the server has threads (40).
WRITERS = 12
# Transactions take milliseconds; who waits for longer waits for somebody who does not let go.
PATIENCE_S = 5.0


class Turns:
    """Places for those that write.

    Args:
        places: How many may write at the same time.
        patience_s: How long one waits for a place.
    """

    def __init__(self, places: int = WRITERS, patience_s: float = PATIENCE_S) -> None:
        self._places = anyio.Semaphore(places)
        self._patience_s = patience_s

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Holds a place for the block; 503 `database-busy` if none is free in time."""
        try:
            with anyio.fail_after(self._patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise database_busy() from None
        try:
            yield
        finally:
            self._places.release()
