"""Those that write take turns, and leave theirs while a file goes to the store."""

from __future__ import annotations

import anyio
import pytest

from api.problems import Problem
from api.turns import Turn, Turns


def test_who_leaves_a_turn_lets_another_one_write() -> None:
    turns = Turns(places=1, patience_s=0.05)
    written = []

    async def write() -> None:
        async with turns.turn():
            written.append("other")

    def handle(turn: Turn) -> None:
        with turn.left():
            anyio.from_thread.run(write)
        with pytest.raises(Problem, match="503"):
            anyio.from_thread.run(write)

    async def upload() -> None:
        async with turns.turn() as turn:
            await anyio.to_thread.run_sync(handle, turn)

    anyio.run(upload)
    anyio.run(write)
    assert written == ["other", "other"]


def test_a_store_that_fails_gives_no_place_back_twice() -> None:
    turns = Turns(places=1, patience_s=0.05)

    def fail(turn: Turn) -> None:
        with turn.left():
            raise OSError("the store is away")

    async def upload() -> None:
        with pytest.raises(OSError, match="away"):
            async with turns.turn() as turn:
                await anyio.to_thread.run_sync(fail, turn)
        async with turns.turn():
            with pytest.raises(Problem, match="503"):
                async with turns.turn():
                    pass

    anyio.run(upload)
