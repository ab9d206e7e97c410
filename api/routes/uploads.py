"""Multipart uploads: the spec beside the file, and the file's way into the store. Bytes only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict, TypeVar

from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.datastructures import UploadFile

from api.problems import conflict, invalid, invalid_field
from api.routes.admission import MAX_DOCUMENT_BYTES
from api.routes.edge import Edge, Services, clear_after
from jobs import removal
from jobs.artifacts import ArtifactStore, Stored
from jobs.errors import SpecError
from jobs.settings import Settings
from jobs.spec import DatasetSpec, ModelSpec, check_allowed
from jobs.states import InputState
from jobs.tables import Dataset, Model
from jobs.validation import validate_json

M = TypeVar("M", bound=BaseModel)


class FormLimits(TypedDict, total=False):
    """What a form may hold, as FastAPI and Starlette name it."""

    max_files: int
    max_fields: int
    max_part_size: int


# A spec and a file: each part beyond costs memory before anything is checked.
FORM_LIMITS: FormLimits = {"max_files": 2, "max_fields": 2, "max_part_size": MAX_DOCUMENT_BYTES}
ARCHIVE_MAGIC = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
TAR_MAGIC = (257, b"ustar")


def read_spec(kind: type[M], given: str | UploadFile) -> M:
    """The form field ``spec``, a JSON document as text or as a file; raises SpecError."""
    if isinstance(given, str):
        return validate_json(kind, given)
    given.file.seek(0)
    content = given.file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise invalid_field("spec", f"must have at most {MAX_DOCUMENT_BYTES // 1024} KiB")
    try:
        return validate_json(kind, content.decode())
    except UnicodeDecodeError:
        raise invalid_field("spec", "must be JSON in UTF-8, but got other bytes") from None


def form_files(
    spec: object, file: object, name: str
) -> tuple[str | UploadFile, UploadFile | None]:
    """The fields of a form: ``spec`` as text or file, and the file ``name`` if it came.

    Raises:
        Problem: 422 where ``spec`` is missing, or the file came as text.
    """
    if isinstance(file, str):
        message = f"must be a file, but got text: with curl, -F {name}=@PATH"
        raise invalid_field(name, message)
    if not isinstance(spec, str | UploadFile):
        raise invalid_field("spec", "must be given: a document as JSON, or a file that holds it")
    return spec, file if isinstance(file, UploadFile) else None


def refuse_foreign_code(spec: ModelSpec | DatasetSpec, settings: Settings) -> None:
    """422 for a ``python:`` function that the operator has not allowed, saying how to allow it."""
    try:
        check_allowed(spec, settings)
    except SpecError as error:
        name = spec.architecture if isinstance(spec, ModelSpec) else spec.function
        hint = (
            f"The operator allows it by starting the service with `secateur up --allow {name}`, "
            "or by adding it to the comma-separated SECATEUR_ALLOW of the api and the workers."
        )
        raise invalid(error.problems, "function-not-allowed", hint) from None


def upload_size(upload: UploadFile) -> int:
    """The number of bytes in an upload, which is complete on our disk by now."""
    if upload.size is not None:
        return upload.size
    return upload.file.seek(0, 2)


def refuse_non_archive(upload: UploadFile) -> None:
    """422 unless the first bytes are those of a zip or tar archive."""
    upload.file.seek(0)
    start = upload.file.read(512)
    upload.file.seek(0)
    offset, magic = TAR_MAGIC
    if not start.startswith(ARCHIVE_MAGIC) and start[offset : offset + len(magic)] != magic:
        message = "must be a zip or tar archive (tar may be packed by gzip, bzip2 or xz)"
        raise invalid_field("archive", message, "invalid-archive")


def keep(store: ArtifactStore, name: str, upload: UploadFile) -> Stored:
    """Stream an upload into the store, where it appears whole or not at all."""
    upload.file.seek(0)
    return store.put(name, upload.file)


def unless_kept(
    services: Services, folder: str, find: Callable[[Session], object | None]
) -> Callable[[], None]:
    """What removes a folder of the store, unless `find` knows the row that it belongs to: the
    answer to a commit may be lost."""

    def remove() -> None:
        with services.reading() as session:
            if find(session) is not None:
                return
        services.store.remove_folder(folder)

    return remove


def free_name(services: Services, edge: Edge, name: str, known: Model | Dataset | None) -> None:
    """Remove what was rejected under this name, so that it can be used anew."""
    if known is None or known.name != name:  # found by an id that looks like the name
        return
    remains = removal.replace_rejected(edge.session, known)
    if remains is not None:
        clear_after(services, edge, remains)


def is_taken(known: Model | Dataset | None) -> bool:
    """Whether this holds its name; what was rejected does not."""
    return known is not None and known.state != InputState.REJECTED


def name_taken(what: str, name: str) -> Exception:
    """409 for a second thing of one name."""
    detail = (
        f"name must be new, but there is a {what} {name!r} already: choose another "
        "name, or remove that one first."
    )
    return conflict("name-taken", detail, errors=[{"field": "name", "message": detail}])
