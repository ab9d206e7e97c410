"""Who may do what: API keys, device secrets, and where the service may listen.

It knows no web framework and no database: `jobs.repository.keys` keeps the keys, hashed.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.ids import sha256_hex

Scope = Literal["read", "submit", "devices", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "submit", "devices", "admin")
KEY_PREFIX = "sct_"
DEVICE_PREFIX = "scd_"
MIN_KEY_CHARACTERS = 32
LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


class AccessSettings(BaseSettings):
    """How the service is reached and by whom, from ``SECATEUR_*`` in the environment.

    Attributes:
        auth: ``off`` needs no key and is for loopback only; ``on`` needs a key for everything.
        admin_key: A complete key ``sct_<id>_<secret>`` chosen by the operator, which has every
            scope: the way to the first key when ``auth`` is on.
        allowed_hosts: Host names that the Host header may carry besides loopback ones,
            comma-separated. With ``auth`` on an empty list allows every name.
        device_redis_url: The broker's address as the devices see it, when it differs from ours.
        max_upload_mb: The largest upload, as a whole form.
        min_free_mb: What uploads leave free on the disks of the temporary folder and of the
            artifact store.
        body_patience_s: How long a request body may take to go on by 64 KiB.
    """

    model_config = SettingsConfigDict(
        env_prefix="SECATEUR_", extra="ignore", hide_input_in_errors=True
    )

    auth: Literal["off", "on"] = "off"
    admin_key: str = ""
    allowed_hosts: str = ""
    device_redis_url: str = ""
    max_upload_mb: int = Field(default=4096, ge=1)
    min_free_mb: int = Field(default=512, ge=0)
    body_patience_s: float = Field(default=60.0, gt=0)

    @property
    def hosts(self) -> frozenset[str]:
        """The allowed host names, lower case."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",")) - {""}

    @field_validator("admin_key")
    @classmethod
    def _is_key(cls, key: str) -> str:
        if key and (parse_token(key, KEY_PREFIX) is None or len(key) < MIN_KEY_CHARACTERS):
            raise ValueError(
                f"SECATEUR_ADMIN_KEY must be sct_<id>_<secret> of {MIN_KEY_CHARACTERS} or more "
                f"characters, but got {len(key)} characters"
            )
        return key

    def is_admin_key(self, text: str) -> bool:
        """Whether this is the operator's own key, compared in constant time."""
        return bool(self.admin_key) and hmac.compare_digest(
            sha256_hex(text), sha256_hex(self.admin_key)
        )


class BindError(ValueError):
    """The service may not listen on this address as it is configured."""


@dataclass(frozen=True)
class Token:
    """A bearer token taken apart: whose it is, and the secret that proves it."""

    owner: str
    secret: str


def key_token(key_id: str, secret: str) -> str:
    """The key as its owner writes it: ``sct_<id>_<secret>``."""
    return f"{KEY_PREFIX}{key_id}_{secret}"


def parse_token(text: str, prefix: str) -> Token | None:
    """Take ``<prefix><owner>_<secret>`` apart; None when it does not have that form."""
    if not text.startswith(prefix):
        return None
    owner, _, secret = text.removeprefix(prefix).rpartition("_")
    return Token(owner, secret) if owner and secret else None


def bearer(header: str | None) -> str | None:
    """The token of an ``Authorization: Bearer ...`` header."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def grants(scopes: Sequence[str], needed: Scope) -> bool:
    """Whether scopes include the needed one; ``admin`` includes all, any includes ``read``."""
    return needed in scopes or "admin" in scopes or (needed == "read" and bool(scopes))


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    name = host.strip("[]").lower().rstrip(".")
    if name in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def check_bind(host: str, settings: AccessSettings) -> None:
    """Refuse to listen beyond this machine without keys.

    Raises:
        BindError: The address is not a loopback one and ``SECATEUR_AUTH`` is off.
    """
    if settings.auth == "off" and not is_loopback(host):
        raise BindError(
            f"host must be a loopback address while SECATEUR_AUTH is off, but got {host!r}: "
            "set SECATEUR_AUTH=on and SECATEUR_ADMIN_KEY=sct_<id>_<secret>, or bind 127.0.0.1"
        )


def host_allowed(header: str, settings: AccessSettings) -> bool:
    """Whether a Host header is one of ours (a foreign one means DNS rebinding)."""
    name = host_name(header)
    if settings.auth == "on" and not settings.hosts:
        return True
    return is_loopback(name) or name in settings.hosts


def host_name(header: str) -> str:
    """The host of a Host header, without its port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()
