"""Finished results on disk until the server has them: a crash or a lost connection costs no
measurement."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from latency_probes.agent.files import remove_parts, write_whole
from latency_probes.messages import Lease, MeasureRequest


class Spooled(BaseModel):
    """A result's text, with the stream entry to acknowledge once it is published."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    entry_id: str
    text: str


class Spool:
    """A directory with one file per unpublished result."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        remove_parts(directory)

    def put(self, request: MeasureRequest | Lease, entry_id: str, text: str) -> None:
        """Keep the result of this request."""
        spooled = Spooled(entry_id=entry_id, text=text)
        write_whole(self._path(request), spooled.model_dump_json().encode())

    def holds(self, request: MeasureRequest | Lease) -> bool:
        """Whether this request's result only waits to be published."""
        return self._path(request).exists()

    def waiting(self) -> list[tuple[Path, Spooled]]:
        """Every unpublished result, oldest first; unreadable files are removed."""
        found = []
        for path in sorted(self._directory.glob("*.json"), key=lambda p: p.stat().st_mtime_ns):
            try:
                found.append((path, Spooled.model_validate_json(path.read_bytes())))
            except ValidationError:
                path.unlink()
        return found

    def _path(self, request: MeasureRequest | Lease) -> Path:
        name = f"{request.request_id}-{request.attempt}-{request.lease_token}.json"
        return self._directory / name
