"""One set of names for what a result keeps to: in REST, on the command line, and in Python."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import secateur
from api.cli.main import app
from jobs.spec import ConstraintsSpec

NAMES = {*ConstraintsSpec.model_fields, "batch_size"}


def parameters(*names: str) -> set[str]:
    """Of a command."""
    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return {each.name for each in command.params}


def test_commands_and_the_library_name_all_fields_alike() -> None:
    assert parameters("prune") >= NAMES
    assert parameters("jobs", "submit") >= NAMES
    assert set(inspect.signature(secateur.prune).parameters) >= NAMES


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--multiple", "0"], "constraints.multiple must be >= 1, but got 0"),
        (["--min-accuracy", "fast"], "constraints.min_accuracy must be a share, such as 90%"),
        (["--max-size", "1", "--max-parameters", "9"], "must give one of max_parameters and max"),
        (["--batch-size", "0"], "target.batch_size must be >= 1, but got 0"),
    ],
)
def test_what_cannot_be_is_refused_before_a_stack_is_started(
    options: list[str], said: str
) -> None:
    words = ["prune", "model.onnx", "--data", "photos", "--ratio", "60%", *options]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "400", "TERM": "dumb"})
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
