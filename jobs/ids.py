"""Names for rows, and secrets. A row's name is a prefix that tells its kind and 12 random
characters (60 bits)."""

from __future__ import annotations

import hashlib
import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_LENGTH = 12
SECRET_LENGTH = 40


def new_id(prefix: str) -> str:
    """A fresh name such as `job_7h2k9m4c0xwa`."""
    return f"{prefix}_{_random(ID_LENGTH)}"


def new_secret() -> str:
    """A fresh secret of 200 bits, letters and digits only."""
    return _random(SECRET_LENGTH)


def sha256_hex(secret: str) -> str:
    """What is kept of a secret. Secrets are random and long, so a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
