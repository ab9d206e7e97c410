"""The `secateur` command: assembles the sub-commands and turns errors into exit codes.

Heavy imports wait until a command needs them, so that `secateur --help` stays quick.
"""

import sys
from typing import Annotated

import typer

from api.cli import datasets, demo, devices, doctor, jobs, keys, models, prune, stack
from api.cli.output import complain, explain, say

PASSED_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def show_version(wanted: bool) -> None:
    """Writes the version and ends."""
    if wanted:
        from importlib.metadata import version

        say(f"secateur {version('secateur')}")
        raise typer.Exit


app = typer.Typer(
    name="secateur",
    help="Prunes a trained network until it meets a latency budget as measured on its device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=show_version
        ),
    ] = False,
) -> None:
    """Prunes a trained network until it meets a latency budget as measured on its device."""


app.command("prune", epilog=prune.EPILOG)(prune.prune)
app.command("up")(stack.up)
app.command("demo")(demo.demo)
app.command("probe", context_settings=PASSED_ON)(stack.probe)
app.command("doctor")(doctor.doctor)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(devices.app, name="devices")
app.add_typer(keys.app, name="keys")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; exits with 0 only if what was asked for happened.

    Args:
        arguments: What follows the program's name; by default that of this process.
    """
    if not sys.stderr.isatty():  # no box that cuts a message into lines of 80 characters
        app.rich_markup_mode = None
    try:
        app(args=arguments)
    except Exception as error:
        if not tell(error):
            raise
        sys.exit(1)


def tell(error: Exception) -> bool:
    """Explains an error of the client in words; False if it is not one."""
    from api.client import ApiProblem, ClientError

    if isinstance(error, ApiProblem):
        explain(error.document)
    elif isinstance(error, ClientError):
        complain(str(error))
    return isinstance(error, ClientError)


if __name__ == "__main__":
    main()
