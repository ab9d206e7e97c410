"""How the library shows what it does: a bar in a terminal, a line in a notebook, or lines.

Knows rich and, in a notebook, IPython; nothing of pruning.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

LINE_PAUSE_S = 2.0
WIDTH = 24


class Display:
    """Shows stages; a context manager.

    Args:
        shown: False shows nothing.
        console: Where; standard error by default.
    """

    def __init__(self, *, shown: bool = True, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._shown = shown
        self._bar: Progress | None = None
        self._task: Any = None
        self._handle: Any = None
        self._stage, self._told_s = "", 0.0

    def __enter__(self) -> Self:
        if self._shown and self._console.is_jupyter:
            self._handle = _notebook_handle()
        elif self._shown and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(WIDTH), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=1.0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, stage: str, part: float, note: str = "") -> None:
        """What is being done, how much of it is done (0 to 1), and a few words."""
        if not self._shown:
            return
        text = f"{stage}: {note}" if note else stage
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=min(max(part, 0.0), 1.0))
            return
        now = time.monotonic()
        if stage == self._stage and part < 1 and now - self._told_s < LINE_PAUSE_S:
            return
        self._stage, self._told_s = stage, now
        if self._handle is not None:
            filled = round(WIDTH * min(max(part, 0.0), 1.0))
            bar = "█" * filled + "░" * (WIDTH - filled)
            self._handle.update({"text/plain": f"{bar} {text}"}, raw=True)
        else:
            self._console.print(
                f"{text} ({100 * part:.0f} %)", soft_wrap=True, highlight=False, markup=False
            )


def _notebook_handle() -> Any:
    from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

    return display({"text/plain": ""}, raw=True, display_id=True)
