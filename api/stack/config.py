"""What `secateur up` was asked to run, and whether that is safe to bind.

Knows the environment variables that replace an embedded part; starts nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from api.auth import AccessSettings, BindError, check_bind, is_loopback
from api.stack.errors import StackError, UnsafeBinding


@dataclass(frozen=True)
class StackConfig:
    """One call of `secateur up`.

    Attributes:
        home: Everything the stack keeps lies below it.
        port: Port of the API; 0 takes a free one.
        workers: Number of worker processes; None is one per core left to the servers.
        probe_runtimes: Runtimes that the local probe offers; empty starts no probe.
        replay: Recording for the runtime `replay`.
        allow: Functions `python:module:function` that model and data set specs may name.
        data_roots: Folders under which the paths of data sets must lie.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int | None = None
    probe_runtimes: tuple[str, ...] = ("onnxruntime",)
    replay: Path | None = None
    allow: tuple[str, ...] = ()
    data_roots: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise StackError(f"port must be between 0 and 65535, but got {self.port}")
        if self.workers is not None and self.workers < 1:
            raise StackError(f"workers must be >= 1, but got {self.workers}")
        for name in self.allow:
            if len(name.split(":")) != 3 or not name.startswith("python:"):
                raise StackError(f"allow must be python:module:function, but got {name!r}")
        for root in self.data_roots:
            if not root.is_dir() or os.pathsep in str(root):
                must = f"must be a folder without {os.pathsep!r} in its name"
                raise StackError(f"data-root {must}, but got {root}")


def check_binding(host: str, environment: Mapping[str, str]) -> None:
    """Refuses to expose a stack that is meant for one machine.

    Raises:
        UnsafeBinding: If `host` is public and the broker is the embedded one, or nobody
            would have to show a key.
    """
    if is_loopback(host):
        return
    if not environment.get("REDIS_URL"):
        raise UnsafeBinding(
            f"host must be a loopback address while the broker is the embedded one, but got "
            f"{host!r}. Set REDIS_URL to a Redis or Valkey server first."
        )
    try:
        check_bind(host, AccessSettings())
    except BindError as problem:
        raise UnsafeBinding(str(problem)) from problem
