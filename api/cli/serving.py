"""The server of `secateur prune`: the one that was named, the stack of this home, or a private one
for as long as the command runs."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import typer

from api.cli.connection import default_home
from api.cli.output import complain
from api.cli.voice import Voice


@contextmanager
def serving(server: str | None, allow: list[str], runtime: str, voice: Voice) -> Iterator[str]:
    """The address of the server to use: the one that was named, the stack of this home if one
    runs, or else a private one on this home for as long as the block lasts."""
    if server is not None:
        yield server
        return
    home = default_home(os.environ)
    if (url := running_stack(home)) is not None:
        yield url
        return
    try:
        from api.stack.background import background
        from api.stack.cores import available_cores, leave_the_probe_alone, plan_cores
        from api.stack.errors import StackError
    except ModuleNotFoundError as missing:
        complain(
            f"a private stack needs {missing.name}: install secateur[standalone], or name a "
            "server by --server"
        )
        raise typer.Exit(1) from missing
    voice.say("Starting a private stack: broker, API, collector, workers and a probe.")
    options = ["--port", "0", *probe_options(runtime)]
    for each in allow:
        options += ["--allow", each]
    try:
        with background(home, options) as url:
            leave_the_probe_alone(plan_cores(available_cores(), probe=True))
            yield url
    except StackError as problem:
        complain(str(problem))
        raise typer.Exit(1) from problem


def probe_options(runtime: str) -> list[str]:
    """Options of a stack whose probe offers the runtime of a job: with `auto` all that work here
    but replay and torch."""
    from latency_probes.messages import AUTO
    from latency_probes.runtimes import registry

    names = sorted(registry.offered()) if runtime == AUTO else [runtime]
    return [part for name in names for part in ("--probe-runtime", name)]


def running_stack(home: Path) -> str | None:
    """The address of the stack that runs on this home."""
    import httpx

    try:
        url = str(json.loads((home / "up.json").read_text())["url"])
        answer = httpx.get(f"{url}/readyz", timeout=3, trust_env=False)
    except (OSError, ValueError, KeyError, TypeError, httpx.HTTPError):
        return None
    return url if answer.status_code == 200 else None


def is_here(server: str) -> bool:
    """Whether the server runs on this machine, and sees its folders."""
    return urlsplit(server).hostname in ("127.0.0.1", "localhost", "::1")
