"""`secateur up` and `secateur probe`: long-running commands on this machine."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from api.cli.connection import default_home
from api.cli.output import complain


def up(
    home: Annotated[
        Path | None, typer.Option(help="Where everything is kept.", envvar="SECATEUR_HOME")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; by default one per core left.", min=1)
    ] = None,
    probe: Annotated[bool, typer.Option(help="Run a probe on this machine.")] = True,
    probe_runtime: Annotated[
        list[str] | None, typer.Option(help="Runtime of the local probe; may be repeated.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Recording for the runtime `replay`.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Function that specs may name: python:module:function; may be repeated."
        ),
    ] = None,
    data_root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder under which the paths of data sets must lie; may be repeated."),
    ] = None,
) -> None:
    """Run the whole service on this machine: broker, API, collector, workers and a probe."""
    try:
        from api.stack.config import StackConfig
        from api.stack.errors import StackError
        from api.stack.stack import up as run
    except ModuleNotFoundError as missing:
        complain(f"`secateur up` needs {missing.name}: install secateur[standalone]")
        raise typer.Exit(1) from missing
    try:
        config = StackConfig(
            home=home or default_home(os.environ),
            host=host,
            port=port,
            workers=workers,
            probe_runtimes=tuple(probe_runtime or ("onnxruntime",)) if probe else (),
            replay=replay,
            allow=tuple(allow or ()),
            data_roots=tuple(data_root or ()),
        )
        run(config, tell)
    except StackError as problem:
        complain(str(problem))
        raise typer.Exit(1) from problem


def tell(line: str) -> None:
    """Writes a line at once. Where nobody reads any more, this one and those that follow are
    dropped: a closed terminal or pipe ends no stack."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def probe(context: typer.Context) -> None:
    """Run the probe agent on this device; every option is the agent's own (see --help)."""
    command = [sys.executable, "-m", "latency_probes.agent", *context.args]
    os.execv(sys.executable, command)
