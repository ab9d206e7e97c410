"""Where `secateur prune` speaks."""

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape


@dataclass(frozen=True)
class Voice:
    """Where the command speaks: standard output, or standard error where JSON goes there."""

    console: Console

    def say(self, text: str) -> None:
        """Writes a line."""
        self.console.print(escape(text), soft_wrap=True, highlight=False)
