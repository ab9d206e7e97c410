"""The home directory of a stack: its paths, its lock, and the note that says who runs where.

The lock is an flock, so the kernel lets go of it whatever happens to its holder. The note
(`up.json`) outlives a killed holder on purpose: it names the children that may be left over.
"""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from api.stack.errors import AlreadyRunning, HomeUnusable, StackError

FULL = (errno.ENOSPC, errno.EDQUOT)

OURS = ("up.json", "valkey.json", "secateur.db")


class Home:
    """Paths below one home directory.

    Attributes:
        root: The directory itself; created with mode 0700 when missing. What an earlier version
            left readable by others is closed.
    """

    def __init__(self, root: Path) -> None:
        try:
            self.root = root.expanduser().resolve()
        except RuntimeError as error:  # pathlib's word for no user, or for links in a circle
            raise HomeUnusable(
                f"home must be a folder, but {root}: {error}. Choose another home with --home."
            ) from error
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs = self.root / "logs"
        self._make_private()
        self.logs.mkdir(mode=0o700, exist_ok=True)

    @property
    def note_path(self) -> Path:
        """The note about the running stack."""
        return self.root / "up.json"

    def log_path(self, name: str) -> Path:
        """The log file of one child."""
        return self.logs / f"{name}.log"

    def read_note(self) -> dict[str, Any]:
        """The note of the stack that runs, or ran last and was killed; empty without one."""
        with suppress(OSError, ValueError):
            note = json.loads(self.note_path.read_text())
            if isinstance(note, dict):
                return note
        return {}

    def write_note(self, note: dict[str, Any]) -> None:
        """Replaces the note."""
        write_private(self.note_path, json.dumps(note, indent=1))

    def forget_note(self) -> None:
        """Removes the note: the stack stopped in order."""
        self.note_path.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds this home for the `with` block.

        Raises:
            AlreadyRunning: If another process holds it.
        """
        with (self.root / "up.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(self._who_runs()) from None
            yield

    def _make_private(self) -> None:
        others = {path.name for path in self.root.iterdir()} - {"up.lock", "logs"}
        is_home = not others or any(name in others for name in OURS)
        if is_home:  # a folder that holds other things too is not ours to close
            close_to_others(self.root, 0o700)
        for name in ("logs", "valkey", "artifacts", "probe"):
            close_to_others(self.root / name, 0o700)
        files = [*self.root.glob("secateur.db*"), self.root / "up.lock"]
        files += (self.root / name for name in OURS)
        for folder in (self.logs, self.root / "valkey"):
            files += (path for path in folder.rglob("*") if path.is_file())
        for path in files:
            close_to_others(path, 0o600)

    def _who_runs(self) -> str:
        note = self.read_note()
        where = f" at {note['url']}" if "url" in note else ""
        pid = f" (process {note['pid']})" if "pid" in note else ""
        return (
            f"Secateur already runs on {self.root}{where}{pid}. Stop it with Ctrl-C there, or "
            "choose another home with --home."
        )


@contextmanager
def private_files() -> Iterator[None]:
    """What this process, and those that it starts, write in the block is for this user alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turns what the system refuses in the block into a sentence about the home that says what to
    change.

    Raises:
        StackError: Instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason, place = error.strerror or str(error), error.filename
        if error.errno in FULL:
            raise HomeUnusable(
                f"home must have room, but {place or root}: {reason}. Free some space on the disk "
                "of the home, or choose another home with --home."
            ) from error
        if place is None:
            raise StackError(f"the system must let the stack start, but: {reason}") from error
        raise HomeUnusable(
            f"home must be a folder that can be read and written, but {place}: {reason}. "
            "Change that, or choose another home with --home."
        ) from error


def close_to_others(path: Path, mode: int) -> None:
    """Gives a file or folder of ours this mode; what is missing, a link or another's stays as it
    is."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode) and found.st_uid == os.geteuid():
            path.chmod(mode)


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, atomically: whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
