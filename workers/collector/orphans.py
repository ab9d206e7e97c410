"""Finds what nobody needs any more, in the database and in the artifact store: what killed uploads
and tasks left, what was removed, and what a job needed until it ended.

A round goes over the whole store, in pieces between which the collector does its other work. A
file goes only if it is older than the grace and has no row when it is looked up after that.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from jobs.artifacts import Found, job_folder, skeleton_name, work_folder
from jobs.removal import BATCH, drop_skeletons
from jobs.repository import (
    artifacts,
    datasets,
    devices,
    idempotency,
    inputs,
    jobs,
    models,
    skeletons,
)
from jobs.states import TERMINAL
from workers.collector.ownership import owns_store
from workers.context import Context

# An upload has its row within the 30 s that a write to the database waits; a task within minutes.
GRACE = timedelta(hours=1)
EVERY_S = 3600.0
PIECE_S = 0.2
_SKELETON = re.compile(r"skeletons/../([0-9a-f]{64})\.onnx")
log = logging.getLogger(__name__)


class Sweep:
    """Rounds, one an hour, the first at once.

    Attributes:
        removed: Names of the files that this round, or the last one, removed.
    """

    def __init__(
        self, context: Context, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._context, self._monotonic = context, monotonic
        self._round: Iterator[None] | None = None
        self._due_at = float("-inf")
        self._first_seen: dict[str, datetime] = {}
        self.removed: list[str] = []
        self._size = 0

    def step(self) -> None:
        """Goes on with the round for a moment, or begins the one that is due. What breaks a round
        off, such as a store that is away, is logged: the next one is due in an hour."""
        if self._round is None:
            if self._monotonic() < self._due_at:
                return
            self._due_at = self._monotonic() + EVERY_S
            self._round, self.removed, self._size = self._pieces(), [], 0
        until = self._monotonic() + PIECE_S
        try:
            for _ in self._round:
                if self._monotonic() >= until:
                    return
        except Exception as error:
            log.warning("the sweep for orphans broke off: %s", error)
        self._round = None
        if self.removed:
            log.info("orphans removed: %d files, %d bytes", len(self.removed), self._size)

    def _pieces(self) -> Iterator[None]:
        self._rows()
        yield
        if owns_store(self._context):
            yield from self._inputs("models", "mdl_")
            yield from self._inputs("datasets", "dat_")
            yield from self._jobs()
            yield from self._skeletons()

    def _rows(self) -> None:
        now = self._context.clock()
        with self._context.unit() as unit:
            idempotency.forget(unit.session, now - idempotency.LIFE)
            devices.forget_tokens(unit.session, now)
            devices.drop_removed(unit.session)
            inputs.drop_removed(unit.session)

    def _inputs(self, kind: str, prefix: str) -> Iterator[None]:
        """Folders of models or data sets without a row, and parts of uploads that broke off."""
        for name in self._folders(kind, prefix):
            files = self._context.store.files(f"{kind}/{name}")
            if self._has_input(kind, name):
                self._remove(each for each in files if each.is_staged and self._is_old(each))
            elif all(self._is_old(each) for each in files):
                self._remove_folder(f"{kind}/{name}", files)
            yield

    def _has_input(self, kind: str, name: str) -> bool:
        with self._context.read() as session:
            find = models.find if kind == "models" else datasets.find
            return find(session, name) is not None

    def _jobs(self) -> Iterator[None]:
        """Folders of jobs without a row, and in those of jobs that have ended all but the
        result."""
        for name in self._folders("jobs", "job_"):
            files = self._context.store.files(job_folder(name))
            with self._context.read() as session:
                job = jobs.find(session, name)
                results = {row.location for row in artifacts.for_job(session, name)}
            old = [each for each in files if self._is_old(each)]
            if job is None:
                if len(old) == len(files):
                    self._remove_folder(job_folder(name), files)
            elif job.state in TERMINAL:
                work = f"{work_folder(name)}/"
                self._remove_folder(work[:-1], [f for f in files if f.name.startswith(work)])
                self._remove(each for each in old if _is_loose(each, work, results))
            else:
                self._remove(each for each in old if each.is_staged)
            yield

    def _skeletons(self) -> Iterator[None]:
        """A file without a row gets one; then the rows that nothing names go, with their files."""
        for name in self._context.store.folders("skeletons"):
            files = self._context.store.files(f"skeletons/{name}")
            old = [each for each in files if self._is_old(each)]
            self._remove(each for each in old if each.is_staged)
            self._adopt(old)
            yield
        with self._context.read() as session:
            sizes = skeletons.unnamed(session, self._context.clock() - GRACE)
        unnamed = sorted(sizes)
        for start in range(0, len(unnamed), BATCH):
            batch = unnamed[start : start + BATCH]
            gone = drop_skeletons(self._context.writing, self._context.store, batch)
            self._note(Found(skeleton_name(digest), sizes[digest], None) for digest in gone)
            yield

    def _adopt(self, files: Iterable[Found]) -> None:
        found = {match[1]: each for each in files if (match := _SKELETON.fullmatch(each.name))}
        with self._context.read() as session:
            unknown = skeletons.unknown(session, found)
        with self._context.unit() as unit:
            for digest in sorted(unknown):
                each = found[digest]
                skeletons.add(
                    unit.session, digest, each.size, each.name, now=self._written_at(each)
                )

    def _folders(self, kind: str, prefix: str) -> list[str]:
        return [name for name in self._context.store.folders(kind) if name.startswith(prefix)]

    def _is_old(self, file: Found) -> bool:
        return self._written_at(file) < self._context.clock() - GRACE

    def _written_at(self, file: Found) -> datetime:
        """When the file was written, or first seen where the store does not tell."""
        if file.modified is not None:
            return file.modified
        return self._first_seen.setdefault(file.name, self._context.clock())

    def _remove(self, files: Iterable[Found]) -> None:
        for each in files:
            self._try(self._context.store.remove, each.name, [each])

    def _remove_folder(self, name: str, files: Iterable[Found]) -> None:
        """Removes a folder of which these files were known, if there are any."""
        if known := list(files):
            self._try(self._context.store.remove_folder, name, known)

    def _try(self, remove: Callable[[str], None], name: str, files: Iterable[Found]) -> None:
        """What cannot be removed does not keep the others."""
        try:
            remove(name)
        except Exception as error:
            log.warning("the orphan %s cannot be removed: %s", name, error)
        else:
            self._note(files)

    def _note(self, files: Iterable[Found]) -> None:
        for each in files:
            self._first_seen.pop(each.name, None)
            self.removed.append(each.name)
            self._size += each.size


def _is_loose(file: Found, work: str, results: Iterable[str]) -> bool:
    """Whether a file of a job that has ended is neither work nor a result."""
    return not file.name.startswith(work) and file.name not in results
