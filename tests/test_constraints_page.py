"""What docs/constraints.md shows runs as it is printed, on the network of the README."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from api.cli.main import app
from examples.resnet20 import resnet20
from jobs.errors import SpecError
from jobs.fitting import check_constraints
from jobs.spec import ConstraintsSpec, JobSpec
from jobs.validation import validate_json
from search.graph import trace

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "constraints.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


QUICKLY = """\
batch_size=2, target=Target(runtime="replay"), calibration=64,
    search={"levels": 1, "beam_width": 1, "children": 2},"""
SPECS = [validate_json(JobSpec, text) for text in blocks("json")]
LINES = [shlex.split(line) for text in blocks("sh") for line in text.splitlines()]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    graph = trace(resnet20().eval(), (torch.rand(2, 1, 28, 28),))
    found: dict[str, Any] = json.loads(json.dumps(graph.report()))
    return found


def test_every_constraint_has_an_example_in_rest_and_on_the_command_line() -> None:
    shown = {name for spec in SPECS for name in spec.constraints.model_fields_set}
    options = {word for line in LINES for word in line}
    for name in ConstraintsSpec.model_fields:
        assert name in shown
        assert f"--{name.replace('_', '-')}" in options


def test_the_examples_are_taken_but_the_last_which_is_refused_as_printed(
    report: dict[str, Any],
) -> None:
    *taken, refused = SPECS
    for spec in taken:
        check_constraints(spec, report)
    with pytest.raises(SpecError) as said:
        check_constraints(refused, report)
    assert f"answers\n\n    {said.value}\n" in PAGE


@pytest.mark.parametrize("words", [line for line in LINES if line[0] == "secateur"], ids=" ".join)
def test_every_command_line_is_one_that_the_program_takes(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    for name in ("jobs", "submit"):
        command = command.commands[name]
    assert words[:3] == ["secateur", "jobs", "submit"]
    assert command.make_context("secateur", words[3:]).params


def test_the_lines_in_python_prune_a_network(tmp_path: Path) -> None:
    """On the replay runtime, with a small search."""
    (source,) = blocks("python")
    source = f"from latency_probes.messages import Target\n{source}".replace(
        "batch_size=2,", QUICKLY
    )
    done = subprocess.run(
        [sys.executable, "-c", source + "assert result.ratio <= 0.8\n"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[1]) <= 0.2
