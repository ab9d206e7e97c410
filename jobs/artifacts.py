"""The store of files: a local folder, or any address that fsspec knows. It knows no table and no
job.

A file appears whole or not at all: it is staged beside its place and renamed there, or sent in
one upload.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar, cast

import fsspec

from jobs.errors import ArtifactDamaged, ArtifactError, ArtifactNotFound, ArtifactUnavailable

P = ParamSpec("P")
T = TypeVar("T")
_CHUNK = 2**20
REFUSALS = (
    FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError
)  # fmt: skip
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_STAGED = ".part-"
_NAME = re.compile(rf"({_PART}/)*({re.escape(_STAGED)})?{_PART}")
# How file systems call the time of the last change; the time of creation is the next best.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


def model_folder(model_id: str) -> str:
    """Where all files of a model lie."""
    return f"models/{model_id}"


def weights_name(model_id: str) -> str:
    """Where the weights of a model lie."""
    return f"{model_folder(model_id)}/weights.safetensors"


def dataset_folder(dataset_id: str) -> str:
    """Where all files of a data set lie."""
    return f"datasets/{dataset_id}"


def archive_name(dataset_id: str) -> str:
    """Where the uploaded archive of a data set lies."""
    return f"{dataset_folder(dataset_id)}/archive"


def skeleton_name(digest: str) -> str:
    """Where a skeleton lies."""
    return f"skeletons/{digest[:2]}/{digest}.onnx"


def job_folder(job_id: str) -> str:
    """Where all files of a job lie."""
    return f"jobs/{job_id}"


def work_folder(job_id: str) -> str:
    """Where a job keeps what only its own tasks need, until it ends."""
    return f"{job_folder(job_id)}/work"


def job_file_name(job_id: str, name: str) -> str:
    """Where a file that a job made lies."""
    return f"{job_folder(job_id)}/{name}"


@dataclass(frozen=True)
class Stored:
    """A file in the store; `location` is the name to get it by."""

    location: str
    size: int
    sha256: str


def _available(method: Callable[P, T]) -> Callable[P, T]:
    """What a remote store raises is one error of ours, and so is a refusal of a folder, of which
    nobody could tell that it is not about a user's file. Other errors of the system say it."""

    @wraps(method)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except REFUSALS as error:
            raise ArtifactUnavailable(str(error)) from error
        except (ArtifactError, OSError):
            raise
        except Exception as error:
            raise ArtifactUnavailable(f"{type(error).__name__}: {error}") from error

    return told


@dataclass(frozen=True)
class Found:
    """A file or an empty folder as the store lists it.

    Attributes:
        modified: when it was last written; None where the store does not tell.
    """

    name: str
    size: int
    modified: datetime | None

    @property
    def is_staged(self) -> bool:
        """Whether it is part of a file that has not appeared yet, and may never."""
        return self.name.rpartition("/")[2].startswith(_STAGED)


class ArtifactStore:
    """Files by name, such as `jobs/job_1/plan.json`. Every method raises ArtifactUnavailable or
    OSError where the store is full, away, or refuses.

    Args:
        url: a folder, or an address such as `s3://bucket/prefix`.
        cache: where `local_path` puts copies of remote files; a temporary folder by default.
    """

    def __init__(self, url: str, *, cache: Path | None = None) -> None:
        self._fs: Any
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._is_local = "file" in (
            [self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol
        )
        self._cache = cache or Path(tempfile.gettempdir()) / f"secateur-cache-{os.getuid()}"

    @property
    def staging_folder(self) -> Path:
        """The folder on this machine that a file is written to before it is in its place."""
        return Path(self._root) if self._is_local else self._cache

    @property
    def cache(self) -> Path | None:
        """Where this machine keeps copies of remote files; None where the store is local."""
        return None if self._is_local else self._cache

    @_available
    def put(self, name: str, data: bytes | BinaryIO, *, sha256: str | None = None) -> Stored:
        """Stores a file, replacing one of the same name at once.

        Raises:
            ArtifactDamaged: the bytes do not have the hash `sha256`; nothing is stored.
            ArtifactError: the name is not a plain relative path.
        """
        place = self._place(name)
        folder = Path(place).parent if self._is_local else self.staging_folder
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        with _staged(folder) as (staged, path):
            size, digest = _copy(source, staged)
            _check(name, digest, sha256)
            self._publish(path, place)
        return Stored(name, size, digest)

    @_available
    def get(self, name: str, *, sha256: str | None = None) -> bytes:
        """The bytes of a file.

        Raises:
            ArtifactNotFound: there is none.
            ArtifactDamaged: its hash is not `sha256`.
        """
        with self.open(name) as file:
            data = file.read()
        _check(name, hashlib.sha256(data).hexdigest(), sha256)
        return data

    @_available
    def open(self, name: str) -> BinaryIO:
        """A file opened for reading; raises ArtifactNotFound."""
        try:
            return cast(BinaryIO, self._fs.open(self._place(name), "rb"))
        except FileNotFoundError as error:
            raise ArtifactNotFound(f"artifact must exist, but got {name!r}") from error

    @_available
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._fs.isfile(self._place(name)))

    @_available
    def remove(self, name: str) -> None:
        """Deletes a file; one that is not there is no error."""
        with suppress(FileNotFoundError):
            if self.exists(name):
                self._fs.rm_file(self._place(name))

    @_available
    def remove_folder(self, name: str) -> None:
        """Deletes a folder with all that is in it, and this machine's copies of that; one that is
        not there, or that goes meanwhile, is no error."""
        place = self._place(name)
        with suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            if self._fs.exists(place):
                self._fs.rm(place, recursive=True)
        if not self._is_local:
            shutil.rmtree(self._cache / name, ignore_errors=True)

    @_available
    def folders(self, name: str) -> list[str]:
        """The names of what lies directly in a folder, sorted; none where it is not there."""
        try:
            self._fs.invalidate_cache()
            found = self._fs.ls(self._place(name), detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    @_available
    def files(self, name: str) -> list[Found]:
        """All files below a folder by name, those too that have not appeared whole; the folder
        itself where it is empty."""
        self._fs.invalidate_cache()
        place = self._place(name)
        found = self._fs.find(place, detail=True) or self._itself(place)
        start = len(self._root) + 1
        return [
            Found(str(path)[start:], int(info.get("size") or 0), _modified(info))
            for path, info in sorted(found.items())
        ]

    def _itself(self, place: str) -> dict[str, Any]:
        try:
            return {place: self._fs.info(place)}
        except FileNotFoundError:
            return {}

    @_available
    def local_path(self, name: str, *, sha256: str | None = None) -> Path:
        """A path on this machine with the file's bytes, to be read only.

        A remote file is copied; the copy of an earlier call is used again only where `sha256`
        tells that it still is the same.

        Raises:
            ArtifactNotFound: there is none.
            ArtifactDamaged: its hash is not `sha256`.
        """
        path = Path(self._place(name)) if self._is_local else self._cache / name
        if not self._is_local and not (sha256 and path.is_file() and _digest(path) == sha256):
            with self.open(name) as source, _staged(path.parent) as (staged, part):
                _copy(source, staged)
                part.replace(path)
        if not path.is_file():
            raise ArtifactNotFound(f"artifact must exist, but got {name!r}")
        if sha256 is not None:
            _check(name, _digest(path), sha256)
        return path

    def _place(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ArtifactError(f"artifact name must be a plain relative path, but got {name!r}")
        return f"{self._root}/{name}"

    def _publish(self, path: Path, place: str) -> None:
        if self._is_local:
            path.replace(place)
        else:
            self._fs.put_file(str(path), place)


def _modified(info: Mapping[str, Any]) -> datetime | None:
    told = next((info[key] for key in _TIMES if info.get(key)), None)
    if isinstance(told, int | float):
        return datetime.fromtimestamp(told, UTC)
    if isinstance(told, str):
        with suppress(ValueError):
            told = datetime.fromisoformat(told)
    if not isinstance(told, datetime):
        return None
    return told if told.tzinfo else told.replace(tzinfo=UTC)


@contextmanager
def _staged(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file in `folder` that is gone afterwards, unless it was renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_STAGED, dir=folder)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _copy(source: BinaryIO, target: BinaryIO) -> tuple[int, str]:
    """Copies to the disk itself; returns size and SHA-256."""
    size, digest = 0, hashlib.sha256()
    while chunk := source.read(_CHUNK):
        target.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    target.flush()
    os.fsync(target.fileno())
    return size, digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(name: str, digest: str, expected: str | None) -> None:
    if expected is not None and digest != expected:
        raise ArtifactDamaged(f"artifact {name} must have SHA-256 {expected}, but got {digest}")
