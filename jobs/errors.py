"""The errors of this package, as one tree. It knows nothing of HTTP: one table in api maps these
to answers.

    JobsError
    ├── SpecError               a document that a user wrote is wrong: one problem per field
    ├── IllegalTransition       a job was asked to go where the table of states has no way
    ├── UnknownCursor           a page was asked for after something that does not exist
    ├── UnknownSchema           the database was written by a version that came after this one
    ├── IdempotencyMismatch     the same idempotency key came with another request
    ├── InUse                   what was to be removed is needed by what has not ended
    └── ArtifactError
        ├── ArtifactNotFound
        ├── ArtifactUnavailable the store could not do what it was asked for; it may later
        └── ArtifactDamaged     the bytes that were read are not the bytes that were written
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field: `field` is its dotted path, `message` a whole sentence."""

    field: str
    message: str


class JobsError(Exception):
    """Anything that this package raises on purpose."""


class SpecError(JobsError):
    """A document that a user wrote is wrong.

    Attributes:
        problems: one entry per field that must be changed.
    """

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problem.message for problem in self.problems))


class IllegalTransition(JobsError):
    """The table of states has no way from the one to the other."""


class UnknownCursor(JobsError):
    """A page was asked for after an id that does not exist."""


class UnknownSchema(JobsError):
    """The database has a schema that this version does not know."""


class IdempotencyMismatch(JobsError):
    """An idempotency key was used again, with another request."""


class InUse(JobsError):
    """What was to be removed is needed by what has not ended.

    Attributes:
        users: ids of those jobs and checks.
    """

    def __init__(self, message: str, users: Sequence[str]) -> None:
        self.users = tuple(users)
        super().__init__(message)


class ArtifactError(JobsError):
    """Something is wrong with a stored file."""


class ArtifactNotFound(ArtifactError):
    """No artifact has this name."""


class ArtifactUnavailable(ArtifactError):
    """The store could not do what it was asked for: full, away, or refusing; it may later."""


class ArtifactDamaged(ArtifactError):
    """The bytes that were read are not the bytes that were written."""
