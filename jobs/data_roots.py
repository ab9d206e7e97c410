"""The folders under which the paths of data sets must lie. It opens nothing.

On a server with keys the operator names them; without keys, on loopback, the user's own files
are all readable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jobs.settings import Settings


@dataclass(frozen=True)
class DataRoots:
    """Where files may lie.

    Attributes:
        folders: Absolute folders; None is anywhere, and the empty tuple nowhere.
    """

    folders: tuple[Path, ...] | None = None

    def hold(self, path: str | Path) -> bool:
        """Whether the path lies under a root, both as it is written and once links are followed.

        A path that is written elsewhere is not looked up, so that its file's existence shows
        in nothing.
        """
        if self.folders is None:
            return True
        written = os.path.normpath(path)
        known = [name for each in self.folders for name in (each, Path(os.path.realpath(each)))]
        return any(Path(written).is_relative_to(root) for root in known) and any(
            Path(os.path.realpath(path)).is_relative_to(root) for root in known
        )

    def __str__(self) -> str:
        return ", ".join(str(each) for each in self.folders or ()) or "none so far"


ANYWHERE = DataRoots()


def data_roots(settings: Settings, *, auth: str | None = None) -> DataRoots:
    """The roots of this installation: those that are named; else, with keys, none at all."""
    needs_keys = (auth or settings.auth) == "on"
    return DataRoots(settings.data_roots) if settings.data_roots or needs_keys else ANYWHERE
