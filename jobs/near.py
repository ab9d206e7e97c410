"""Names that are spelt nearly like one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN_CHARACTERS = 80


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'resnet18' or 'resnet34'?`, of the known names; empty where none is near.

    Upper and lower case are alike.
    """
    names = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower()[:SHOWN_CHARACTERS], list(names), n=3)
    quoted = [repr(names[each])[:SHOWN_CHARACTERS] for each in found]
    return f"; did you mean {' or '.join(quoted)}?" if quoted else ""
