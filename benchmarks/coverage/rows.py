"""Rows of the benchmark: what is said of a model, the file that keeps them, and the table.

| symbol | meaning |
|---|---|
| exact | share of the dense MACs that goes with the exact groups at half width |
| approximate | what goes besides, when the approximate groups are at half width too |
| ENOUGH | the share that counts as pruned; approximate groups count for at most half of it |
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "frozen", "failed", "timeout"]

ENOUGH = 0.2


@dataclass(frozen=True)
class Row:
    """What became of one model.

    Attributes:
        status: `ok`: all stages passed and enough was removed; `frozen`: all passed, less was
            removed; `failed`: a stage raised or gave a wrong output; `timeout`: it was killed.
        macs_removed: share of the dense MACs, exact groups at half width.
        macs_removed_approximate: what the approximate groups at half width add to it.
        seconds: to build, trace and prune.
        reason: empty for `ok`.
        detail: stages and their seconds, groups by status, form of the pruned model, and so on.
    """

    name: str
    status: Status
    macs_removed: float = 0.0
    macs_removed_approximate: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


def counted(exact: float, approximate: float) -> float:
    """The share that counts: of ENOUGH, at most half may come from approximate groups."""
    return exact + min(approximate, ENOUGH / 2)


def is_enough(exact: float, approximate: float) -> bool:
    """Whether the shares make a model `ok`."""
    return counted(max(exact, 0.0), max(approximate, 0.0)) >= ENOUGH


class RowFile:
    """The rows as one JSON list on disk, rewritten whole after every model.

    Args:
        path: the file; its folder must exist.
        resume: keep the rows that are there, else begin anew.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if resume and path.exists():
            self._rows = {row["name"]: row for row in _read(path)}

    @property
    def names(self) -> frozenset[str]:
        """The models that have a row."""
        return frozenset(self._rows)

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order in which they came."""
        return [Row(**row) for row in self._rows.values()]

    def drop(self, statuses: Iterable[str]) -> None:
        """Forget the rows of `statuses`, so that their models run again."""
        gone = set(statuses)
        self._rows = {name: row for name, row in self._rows.items() if row["status"] not in gone}

    def add(self, row: Row) -> None:
        """Write the row: readers see the old file or the new one, never half of it."""
        self._rows[row.name] = asdict(row)
        text = json.dumps(list(self._rows.values()), indent=1) + "\n"
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self._path)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        known = set(Row.__dataclass_fields__)
        return [{key: row[key] for key in known & row.keys()} for row in rows if row["name"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--json {path} must hold rows to resume from, but got {error!r}"
        ) from None


def table(rows: Iterable[Row]) -> str:
    """One line per model."""
    listed = list(rows)
    width = max((len(row.name) for row in listed), default=5)
    lines = [f"{'model':{width}}  status    exact  approx  seconds  reason"]
    lines += [
        f"{row.name:{width}}  {row.status:8} {row.macs_removed:5.1%}  "
        f"{row.macs_removed_approximate:6.1%}  {row.seconds:7.1f}  {row.reason}".rstrip()
        for row in listed
    ]
    return "\n".join(lines) + "\n"


def summary(rows: Iterable[Row]) -> str:
    """The figures that the issue asks for, in one line."""
    listed = list(rows)
    if not listed:
        return "no models\n"
    traced = sum(bool(row.detail.get("traced")) for row in listed)
    ok = sum(row.status == "ok" for row in listed)
    hangs = sum(row.status == "timeout" for row in listed)
    failed = [row for row in listed if row.status == "failed"]
    wrong = sum(bool(row.detail.get("wrong_output")) for row in failed)
    frozen = sum(row.status == "frozen" for row in listed)
    return (
        f"{len(listed)} models: {traced / len(listed):.1%} traced, {ok / len(listed):.1%} with "
        f"{ENOUGH:.0%} of MACs removed ({ok} ok, {frozen} frozen, {len(failed)} failed), "
        f"{hangs} timeouts, {wrong} wrong outputs\n"
    )
