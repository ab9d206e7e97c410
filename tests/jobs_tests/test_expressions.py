"""Capability expressions: what they mean, and where they are wrong."""

from __future__ import annotations

import pytest

from jobs.expressions import MOST_CHARACTERS, MOST_DEPTH, parse

FACTS = {
    "cpu": "ARM Cortex-A76",
    "cores": 4,
    "memory_mb": 7900,
    "gpu": None,
    "container": False,
    "isa": ["neon", "dotprod"],
    "runtimes": {"onnxruntime": {"version": "1.20.1", "providers": ["CPUExecutionProvider"]}},
    "labels": {"room": "kitchen", "rack.slot": "3", "empty": ""},
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("memory_mb >= 4000", True),
        ("memory_mb > 7900", False),
        ("memory_mb <= 7900 and cores < 5", True),
        ("cores = 4", True),
        ("cores == 4.0", True),
        ("cores != 4", False),
        ('cpu contains "Cortex"', True),
        ("cpu contains cortex", False),
        ("cpu > 4", False),
        ("isa contains neon", True),
        ("isa contains avx2", False),
        ("runtimes.onnxruntime", True),
        ("runtimes.openvino", False),
        ("runtimes contains onnxruntime", True),
        ("runtimes.onnxruntime.version = 1.20.1", True),
        ("runtimes.onnxruntime.providers contains CPUExecutionProvider", True),
        ("labels.room = kitchen", True),
        ("labels.room = 'kitchen'", True),
        ("labels.rack.slot = 3", True),
        ("labels.rack.slot >= 4", False),
        ("labels.empty", False),
        ("container = false", True),
        ("container", False),
        ("gpu", False),
        ("gpu != none", False),
        ("labels.floor != 2", False),
        ("not labels.floor = 2", True),
        ("not not cores", True),
        ("cores = 1 or cores = 4 and memory_mb > 1", True),
        ("(cores = 4 or cores = 1) and memory_mb < 1", False),
        ("cores = 4 or cores = 1 and memory_mb < 1", True),
        ('labels.room = "and"', False),
        ("cores.more", False),
    ],
)
def test_it_holds_for_what_it_says(text: str, holds: bool) -> None:
    assert parse(text).holds(FACTS) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a name, not or an opening parenthesis at character 1, but got the end"),
        ("cores >= 4 and", "must have a name, .* at character 15, but got the end"),
        ("cores >=", "must have a number, a text or a word at character 9, but got the end"),
        ("cores >= )", "must have a number, a text or a word at character 10, but got '\\)'"),
        ("(cores", "must have and, or, or a closing parenthesis at character 7"),
        ("cores 4", "must have and, or, or the end at character 7, but got '4'"),
        ("cores >= 4)", "must have and, or, or the end at character 11, but got '\\)'"),
        ("and cores", "must have a name, .* at character 1, but got 'and'"),
        ("4 = cores", "must have a name, .* at character 1, but got '4'"),
        ("cores; drop", "must have a name, a value or a sign at character 6, but got ';'"),
        ('cpu = "open', "must have a name, a value or a sign at character 7, but got '\"'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_endless_expressions_are_refused() -> None:
    with pytest.raises(ValueError, match=f"at most {MOST_CHARACTERS} characters, but got 501"):
        parse("x" * (MOST_CHARACTERS + 1))
    with pytest.raises(ValueError, match=f"nested at most {MOST_DEPTH} deep"):
        parse("(" * (MOST_DEPTH + 1) + "x" + ")" * (MOST_DEPTH + 1))
