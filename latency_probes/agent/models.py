"""Models on the device's disk by digest. What is cached was checked when it was written, and is
checked again when it is used; the least recently used are removed beyond a limit."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from latency_probes.agent.files import remove_parts, write_whole
from latency_probes.messages import Workload

Fetch = Callable[[Workload, Path], None]

_LIMIT_BYTES = 2**30


class ModelCache:
    """A directory of `<digest>.onnx` files.

    Args:
        fetch: writes a workload's checked model to a path; used for what is not inline.
    """

    def __init__(self, directory: Path, fetch: Fetch, *, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._directory, self._fetch, self._limit_bytes = directory, fetch, limit_bytes
        directory.mkdir(parents=True, exist_ok=True)
        remove_parts(directory)

    def obtain(self, *workloads: Workload) -> list[Path]:
        """The files of these models; none of them is removed to make room.

        Raises:
            MessageError: inline data that is not what it says.
            Whatever `fetch` raises.
        """
        paths = [self._obtain(workload) for workload in workloads]
        self._make_room(keep=set(paths))
        return paths

    def _obtain(self, workload: Workload) -> Path:
        path = self._directory / f"{workload.digest}.onnx"
        if path.exists() and _digest(path) == workload.digest:
            path.touch()
        elif workload.data is not None:
            write_whole(path, workload.unpack())
        else:
            self._fetch(workload, path)
        return path

    def _make_room(self, keep: set[Path]) -> None:
        found = [(path, path.stat()) for path in self._directory.glob("*.onnx")]
        total = sum(stat.st_size for _, stat in found)
        for path, stat in sorted(found, key=lambda each: each[1].st_mtime_ns):
            if total <= self._limit_bytes:
                return
            if path not in keep:
                path.unlink(missing_ok=True)
                total -= stat.st_size


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
