"""Which devices a job accepts: `any`, `id:<device id>`, `label:<name>=<value>` or
`where:<expression>`; and which may answer a request: one of these, or the job's pool."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

from jobs import expressions

_FORM = re.compile(
    r"any|(?P<kind>id|pool):(?P<id>[A-Za-z0-9_-]{1,64})"
    r"|label:(?P<label>[\w.:-]{1,64})=(?P<value>.{0,200})|where:(?P<where>.*)"
)


@dataclass(frozen=True)
class Selector:
    """A parsed selector. `str()` gives its text again.

    Attributes:
        kind: `pool` is for requests alone: the device that measured the dense model, and those
            that have joined it in measuring the job.
        name: Of the device or the label; the expression where the kind is `where`.
        value: The label's.
    """

    kind: Literal["any", "id", "label", "where", "pool"]
    name: str = ""
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a selector.

        Raises:
            ValueError: it has none of the forms, or its expression cannot be read.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(
                "must be any, id:<id>, label:<name>=<value> or where:<expression>, "
                f"but got {text!r}"
            )
        if match["id"] is not None:
            return cls("pool" if match["kind"] == "pool" else "id", match["id"])
        if match["label"] is not None:
            return cls("label", match["label"], match["value"])
        if match["where"] is not None:
            _expression(match["where"])
            return cls("where", match["where"])
        return cls("any")

    def accepts(
        self,
        device_id: str,
        labels: Mapping[str, str],
        capabilities: Mapping[str, Any] | None = None,
    ) -> bool:
        """Whether a device will do; of a pool, the one that began it.

        Args:
            capabilities: What it announced, for expressions.
        """
        if self.kind == "where":
            facts = {**(capabilities or {}), "labels": labels, "id": device_id}
            return _expression(self.name).holds(facts)
        if self.kind in ("id", "pool"):
            return device_id == self.name
        return self.kind == "any" or labels.get(self.name) == self.value

    def __str__(self) -> str:
        if self.kind == "label":
            return f"label:{self.name}={self.value}"
        return self.kind if self.kind == "any" else f"{self.kind}:{self.name}"


@lru_cache(maxsize=256)
def _expression(text: str) -> expressions.Expression:
    """The expression, read once: every request is compared with every device."""
    return expressions.parse(text)
