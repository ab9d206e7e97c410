"""The ACL of one device's Redis user: its own request stream, and appending to its own results.

Selectors keep the two apart: with one list of commands and keys, a device could also add to the
stream of its requests. The server sends these arguments; the agent never does.
"""

import re

from latency_probes import keys

_DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REQUEST_COMMANDS = ("+xreadgroup", "+xautoclaim", "+xclaim", "+xack", "+xgroup|create")
_CONNECTION_COMMANDS = ("+ping", "+client|setinfo", "+client|setname", "+client|id")


def set_user(device_id: str, secret_sha256: str) -> tuple[str, ...]:
    """The whole `ACL SETUSER` command for a device; safe to send any number of times.

    Raises:
        ValueError: the secret's digest is not 64 lower-case hexadecimal digits, or the id could be
            read as a pattern of keys.
    """
    if not _DEVICE_ID.fullmatch(device_id):
        raise ValueError("device_id must be 1 to 64 letters, digits, hyphens or underscores")
    if not _SHA256.fullmatch(secret_sha256):
        raise ValueError("secret_sha256 must be 64 lower-case hexadecimal digits")
    requests, results = keys.requests_stream(device_id), keys.results_stream(device_id)
    return (
        "ACL", "SETUSER", keys.device_user(device_id), "reset", "on", f"#{secret_sha256}",
        *_CONNECTION_COMMANDS,
        f"({' '.join(_REQUEST_COMMANDS)} ~{requests})",
        f"(+xadd %W~{results})",
    )  # fmt: skip


def delete_user(device_id: str) -> tuple[str, ...]:
    """The `ACL DELUSER` command that also ends the device's connections."""
    return ("ACL", "DELUSER", keys.device_user(device_id))
