"""Removes files that nobody needs any more: of tasks that went on, of jobs that ended, and, on a
worker's own machine, of what was removed elsewhere. What fails here is left to a later sweep."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sqlalchemy.orm import Session

from jobs.artifacts import job_folder, work_folder
from jobs.repository import datasets, jobs, models
from jobs.states import TERMINAL
from workers.context import Context

EVERY_S = 3600.0
# A file that is written right now is younger; the parts of a data set are as old as its unpacking.
GRACE_S = 3600.0
UNPACKING_S = 24 * 3600.0
log = logging.getLogger(__name__)


def drop(context: Context, names: Iterable[str]) -> None:
    """Removes files of the store."""
    for name in names:
        _tried(name, context.store.remove)


def clear_job(context: Context, job_id: str) -> None:
    """Removes what only the tasks of a job needed, if it has ended; all, if it was removed while
    one of them ran."""
    with context.read() as session:
        job = jobs.find(session, job_id)
    if job is None:
        _tried(job_folder(job_id), context.store.remove_folder)
    elif job.state in TERMINAL:
        _tried(work_folder(job_id), context.store.remove_folder)


def keep_tidy(context: Context) -> None:
    """Starts a thread that looks after this machine now and each hour."""
    threading.Thread(target=_repeat, args=(context,), daemon=True).start()


def sweep_machine(context: Context) -> list[Path]:
    """Removes unpacked data sets and copies of files whose data set or model is gone, and parts of
    either that a killed worker left; returns what."""
    with context.read() as session:
        gone = [*_unpacked(context, session), *_copies(context, session)]
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if gone:
        log.info("removed from this machine: %s", ", ".join(str(path) for path in gone))
    return gone


def _unpacked(context: Context, session: Session) -> Iterator[Path]:
    for path in _old(context.settings.unpacked, ".part-*", UNPACKING_S):
        yield path
    for path in _old(context.settings.unpacked, "dat_*", GRACE_S):
        if datasets.find(session, path.name) is None:
            yield path


def _copies(context: Context, session: Session) -> Iterator[Path]:
    cache = context.store.cache
    if cache is None:
        return
    yield from _old(cache, "**/.part-*", GRACE_S)
    for path in _old(cache / "models", "mdl_*", GRACE_S):
        if models.find(session, path.name) is None:
            yield path
    for path in _old(cache / "datasets", "dat_*", GRACE_S):
        if datasets.find(session, path.name) is None:
            yield path


def _old(folder: Path, pattern: str, age_s: float) -> Iterator[Path]:
    before = time.time() - age_s
    for path in sorted(folder.glob(pattern)):
        try:
            if path.stat().st_mtime < before:
                yield path
        except FileNotFoundError:  # another worker was first
            continue


def _repeat(context: Context) -> None:
    while True:
        try:
            sweep_machine(context)
        except Exception as error:
            log.warning("this machine was not tidied: %s", error)
        time.sleep(EVERY_S)


def _tried(name: str, remove: Callable[[str], None]) -> None:
    try:
        remove(name)
    except Exception as error:
        log.warning("%s was left behind: %s", name, error)
