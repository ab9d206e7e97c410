"""Selectors: three forms, read and written alike."""

from __future__ import annotations

import pytest

from jobs.selectors import Selector

LABELS = {"room": "lab", "empty": ""}


@pytest.mark.parametrize(
    "text", ["any", "id:dev_1", "label:room=lab", "label:a.b=x=y", "label:empty="]
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
    ],
)
def test_it_accepts_what_it_says(text: str, accepts: bool) -> None:
    assert Selector.parse(text).accepts("dev_1", LABELS) is accepts


@pytest.mark.parametrize("text", ["", "all", "id:", "id:a b", "label:room", "label:=x", "any "])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be any, id:<id> or label:<name>=<value>"):
        Selector.parse(text)
