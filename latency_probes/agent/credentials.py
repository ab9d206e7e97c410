"""Who this device is, kept in a file that only its owner can read."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from latency_probes.agent.files import write_whole
from latency_probes.messages import EnrolmentReply


class CredentialsError(Exception):
    """The credentials file exists but cannot be used."""


class Credentials(BaseModel):
    """The server's reply to the enrolment, and which server gave it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    server: str
    reply: EnrolmentReply

    @property
    def bearer(self) -> str:
        """The value of the Authorization header."""
        return f"Bearer scd_{self.reply.device_id}_{self.reply.secret}"


def load(path: Path) -> Credentials | None:
    """The kept credentials, or None if there are none.

    Raises:
        CredentialsError: others can read the file, or it is malformed.
    """
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    if mode & 0o077:
        raise CredentialsError(f"{path} must be readable by its owner only, but has {mode:03o}")
    try:
        return Credentials.model_validate_json(text)
    except ValidationError as error:
        raise CredentialsError(f"{path} holds no valid credentials; remove it to enrol") from error


def save(path: Path, credentials: Credentials) -> None:
    """Keep them, mode 0600."""
    write_whole(path, credentials.model_dump_json().encode())
    path.chmod(0o600)
