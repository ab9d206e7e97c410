"""Which errors may pass, and when what they stopped is tried again.

What is permanent says so itself: a model, a plan or a data set that is wrong stays wrong. What a
file system, a store, a database or a server says may be over in a minute. It must not know a step.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError
from redis.exceptions import RedisError
from sqlalchemy import exc

from jobs.errors import ArtifactDamaged, ArtifactNotFound, ArtifactUnavailable

# Eight tries in about eight minutes: the time to free a disk or to restart a server, and not so
# long that nobody looks.
MOST_TRIES = 8
FIRST_S, LONGEST_S = 5.0, 160.0
ERROR_LENGTH = 2000

PASSING = (
    # The store knew the file when its name was written, so it may again, as after a mount.
    ArtifactDamaged,
    ArtifactNotFound,
    ArtifactUnavailable,
    ConnectionError,
    RedisError,
    TimeoutError,
    exc.IntegrityError,  # another worker wrote the same at the same time
    exc.InterfaceError,
    exc.OperationalError,
    exc.TimeoutError,
)
# Errors of the operating system that say what is wrong with a path, not with the machine.
_PERMANENT = {
    errno.EACCES, errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EPERM,
}  # fmt: skip


def is_passing(error: BaseException) -> bool:
    """Whether the same step may succeed later, unchanged: by the error, or by what caused it."""
    return any(_may_pass(each) for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, PASSING):
        return True
    # Readers of images and archives raise OSErrors without a number for what is in a file.
    return isinstance(error, OSError) and error.errno not in {None, *_PERMANENT}


@contextmanager
def ending_if_passing(status: int) -> Iterator[None]:
    """Ends the process with this status, and the error's words, where an error may pass; the
    others go on."""
    try:
        yield
    except Exception as error:
        if not is_passing(error):
            raise
        sys.stderr.write(f"{type(error).__name__}: {words(error)}\n")
        sys.exit(status)


def pause_s(tries: int) -> float:
    """How long to wait after so many tries in a row."""
    return min(FIRST_S * 2.0 ** (tries - 1), LONGEST_S)


def words(error: BaseException) -> str:
    """What to tell of an error: what is stored and cannot be read says that it is so."""
    if isinstance(error, ValidationError):
        found = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors()
        )
        text = f"a stored {error.title} cannot be read by this version of Secateur ({found})"
    else:
        text = str(error) or type(error).__name__
    return text[:ERROR_LENGTH]


def given_up(error: BaseException) -> str:
    """The reason of a failure after the last try."""
    return f"{words(error)} (tried {MOST_TRIES} times)"
