"""Which devices a job accepts: `any`, `id:<device id>` or `label:<name>=<value>`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

_FORM = re.compile(
    r"any|id:(?P<id>[A-Za-z0-9_-]{1,64})|label:(?P<label>[\w.:-]{1,64})=(?P<value>.{0,200})"
)


@dataclass(frozen=True)
class Selector:
    """A parsed selector. `str()` gives its text again."""

    kind: Literal["any", "id", "label"]
    name: str = ""
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a selector.

        Raises:
            ValueError: it has none of the three forms.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"must be any, id:<id> or label:<name>=<value>, but got {text!r}")
        if match["id"] is not None:
            return cls("id", match["id"])
        if match["label"] is not None:
            return cls("label", match["label"], match["value"])
        return cls("any")

    def accepts(self, device_id: str, labels: Mapping[str, str]) -> bool:
        """Whether a device with this id and these labels will do."""
        if self.kind == "id":
            return device_id == self.name
        return self.kind == "any" or labels.get(self.name) == self.value

    def __str__(self) -> str:
        forms = {"any": "any", "id": f"id:{self.name}", "label": f"label:{self.name}={self.value}"}
        return forms[self.kind]
