"""How many requests write at a time, so that the others never wait behind them for a thread.

A request that waits for its turn is a coroutine and holds nothing. It must not know the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio import from_thread

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
    async def turn(self) -> AsyncIterator[Turn]:
        """Holds a place for the block; 503 `database-busy` if none is free in time."""
        turn = Turn(self._places, self._patience_s)
        await turn.take()
        try:
            yield turn
        finally:
            turn.give_back()


class Turn:
    """One place among those that write, which may be left for a while."""

    def __init__(self, places: anyio.Semaphore, patience_s: float) -> None:
        self._places, self._patience_s = places, patience_s
        self._is_held = False

    async def take(self) -> None:
        """Waits for the place; 503 `database-busy` if none is free in time."""
        try:
            with anyio.fail_after(self._patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise database_busy() from None
        self._is_held = True

    def give_back(self) -> None:
        """Lets somebody else write."""
        if self._is_held:
            self._places.release()
        self._is_held = False

    @contextmanager
    def left(self) -> Iterator[None]:
        """Leaves the place for the block, which must not have begun to write. For handlers, which
        run in threads; the place is taken again unless the block fails."""
        from_thread.run_sync(self.give_back)
        yield
        from_thread.run(self.take)
