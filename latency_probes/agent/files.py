"""Files that are whole or absent, whenever the process is killed."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write `data` so that readers see all of it or none, readable by the owner only.

    Raises:
        Whatever the iteration over `data` raises; nothing is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines((data,) if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove_parts(directory: Path) -> None:
    """Remove what a killed writer left."""
    for part in directory.glob(".part-*"):
        part.unlink(missing_ok=True)
