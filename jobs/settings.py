"""Where this installation keeps things, read from the environment. It opens nothing but
`valkey.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PYTHON = "python:"


def _home() -> Path:
    return Path.home() / ".secateur"


def _database_url(fields: dict[str, Any]) -> str:
    return f"sqlite:///{fields['home'] / 'secateur.db'}"


def _artifact_url(fields: dict[str, Any]) -> str:
    return str(fields["home"] / "artifacts")


def _redis_url(fields: dict[str, Any]) -> str:
    """The embedded server's address, or else a server on Redis' own port."""
    try:
        document = json.loads((fields["home"] / "valkey.json").read_text())
    except FileNotFoundError:
        return "redis://127.0.0.1:6379/0"
    return str(document["url"])


class Settings(BaseSettings):
    """The environment of a process.

    Attributes:
        home: `SECATEUR_HOME`; the folder of the embedded stack.
        database_url: `DATABASE_URL`; SQLite in `home` by default.
        artifact_url: `ARTIFACT_URL`; a folder, or an address that fsspec knows.
        redis_url: `REDIS_URL`; by default the `url` in `{home}/valkey.json`.
        allow: `SECATEUR_ALLOW`; the `python:module:function` names that specs may call; `python:`
            may be left out.
        auth: `SECATEUR_AUTH`; `on` where callers need keys.
        data_roots: `SECATEUR_DATA_ROOTS`; folders, separated by colons, under which the paths of
            data sets must lie. See `jobs.data_roots`.
        task_lease_s: `SECATEUR_TASK_LEASE_S`; after this long a worker counts as dead.
        inspection_limit_s: `SECATEUR_INSPECTION_LIMIT_S`; the processor time in which a worker
            verifies what of a model can be pruned; what it leaves open is not pruned.
        spare_cores: `SECATEUR_SPARE_CORES`; numbers separated by commas: the cores on which a
            fine-tuning may compute while nothing is measured. `secateur up` names all.
        request_lease_s: `SECATEUR_REQUEST_LEASE_S`; after this long without a sign from its
            device a request is given to another.
    """

    model_config = SettingsConfigDict(
        env_prefix="SECATEUR_", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    home: Path = Field(default_factory=_home)
    database_url: str = Field(default_factory=_database_url, validation_alias="database_url")
    artifact_url: str = Field(default_factory=_artifact_url, validation_alias="artifact_url")
    redis_url: str = Field(default_factory=_redis_url, validation_alias="redis_url")
    allow: Annotated[frozenset[str], NoDecode] = frozenset()
    auth: Literal["off", "on"] = "off"
    data_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    task_lease_s: Annotated[float, Field(gt=0)] = 60.0
    inspection_limit_s: Annotated[float, Field(gt=0)] = 1800.0
    spare_cores: Annotated[tuple[int, ...], NoDecode] = ()
    request_lease_s: Annotated[float, Field(gt=0, le=3600)] = 30.0

    @property
    def unpacked(self) -> Path:
        """Where the workers of this machine unpack data sets, each in a folder of its id."""
        return self.home / "datasets"

    @property
    def heartbeat_s(self) -> float:
        """How often a device gives a sign."""
        return self.request_lease_s / 6

    @property
    def silence_s(self) -> float:
        """After this long without a sign a device is offline."""
        return self.request_lease_s * 2 / 3

    @field_validator("redis_url", "database_url")
    @classmethod
    def _readable(cls, address: str, info: ValidationInfo) -> str:
        """Every library would quote a part of the password that it takes for a port."""
        try:
            _ = urlsplit(address).port
        except ValueError:
            raise ValueError(
                f"{str(info.field_name).upper()} must be an address such as scheme://user:"
                "password@host:port/name, with special characters percent-encoded, but cannot be "
                "read"
            ) from None
        return address

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("allow", mode="before")
    @classmethod
    def _split(cls, allow: Any) -> Any:
        """Names without their scheme get it."""
        if isinstance(allow, str):
            names = (name.strip().removeprefix(PYTHON) for name in allow.split(","))
            return frozenset(PYTHON + name for name in names if name)
        return allow

    @field_validator("spare_cores", mode="before")
    @classmethod
    def _numbers(cls, cores: Any) -> Any:
        if isinstance(cores, str):
            return tuple(int(core) for core in cores.split(",") if core.strip())
        return cores

    @field_validator("data_roots", mode="before")
    @classmethod
    def _folders(cls, roots: Any) -> Any:
        if isinstance(roots, str):
            roots = [each.strip() for each in roots.split(os.pathsep) if each.strip()]
        folders = tuple(Path(each).expanduser() for each in roots)
        if relative := [str(each) for each in folders if not each.is_absolute()]:
            raise ValueError(f"data roots must be absolute, but got {relative[0]!r}")
        return folders
