"""Options that every command shares: the server's address, the key, JSON output."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from api.client import Client

DEFAULT_URL = "http://127.0.0.1:8000"

Server = Annotated[
    str | None,
    typer.Option(
        help="Address of the API; by default that of the stack of this home.",
        envvar="SECATEUR_URL",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--key", help="API key; a server on loopback may need none.", envvar="SECATEUR_KEY"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def connect(server: str | None, key: str | None) -> "Client":
    """A client for the chosen server."""
    from api.client import Client

    return Client(server or default_server(os.environ), key=key)


def default_home(environment: Mapping[str, str]) -> Path:
    """The home directory that `secateur up` uses unless told otherwise."""
    return Path(environment.get("SECATEUR_HOME") or "~/.secateur").expanduser()


def default_server(environment: Mapping[str, str]) -> str:
    """The address of the stack that runs on the default home, or the usual one."""
    import json

    try:
        note = json.loads((default_home(environment) / "up.json").read_text())
        return str(note["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_URL
