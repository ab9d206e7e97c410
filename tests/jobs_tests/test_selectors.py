"""Selectors: their forms, read and written alike."""

from __future__ import annotations

import pytest

from jobs.selectors import Selector
from jobs.spec import TargetSpec

LABELS = {"room": "lab", "empty": ""}


@pytest.mark.parametrize(
    "text",
    [
        "any",
        "id:dev_1",
        "label:room=lab",
        "label:a.b=x=y",
        "label:empty=",
        "where:cores >= 4",
        "pool:dev_1",
    ],
)
def test_it_is_written_as_it_was_read(text: str) -> None:
    assert str(Selector.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "accepts"),
    [
        ("any", True),
        ("id:dev_1", True),
        ("id:dev_2", False),
        ("label:room=lab", True),
        ("label:room=", False),
        ("label:empty=", True),
        ("label:floor=1", False),
        ("where:labels.room = lab and cores >= 4", True),
        ("where:cores >= 8", False),
        ('where:id = "dev_1"', True),
        ("pool:dev_1", True),
        ("pool:dev_2", False),
        ("pool:dev_3", False),
    ],
)
def test_it_accepts_what_it_says(text: str, accepts: bool) -> None:
    assert Selector.parse(text).accepts("dev_1", LABELS, {"cores": 4}) is accepts


def test_expression_that_cannot_be_read_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match="must have a number, a text or a word at character 9"):
        Selector.parse("where:cores >=")


def test_job_names_no_pool() -> None:
    with pytest.raises(ValueError, match="must not be a pool"):
        TargetSpec(device="pool:dev_1")


@pytest.mark.parametrize(
    "text", ["", "all", "id:", "id:a b", "label:room", "label:=x", "any ", "pool:"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be any, id:<id>, label:<name>=<value> or where"):
        Selector.parse(text)
