"""A template graph and, for each number that varies, the function of widths that gives it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from fractions import Fraction

from onnx import ModelProto

from search.errors import SkeletonError
from search.skeleton.affine import Affine, Widths
from search.skeleton.numbers import numbers, with_numbers
from search.skeleton.weightless import Skeleton, serialised


class Derivation:
    """Makes the skeleton of any widths.

    Args:
        template: a canonical graph without weights.
        solved: position among the template's numbers -> function of the widths.
    """

    def __init__(self, template: ModelProto, solved: Mapping[int, Affine]) -> None:
        self._template, self._solved = template, dict(solved)
        self._values = numbers(template)

    def skeleton(self, widths: Widths) -> Skeleton:
        return serialised(self.graph(widths))

    def graph(self, widths: Widths) -> ModelProto:
        """The canonical graph without weights."""
        values = list(self._values)
        for position, function in self._solved.items():
            values[position] = function(widths)
        return with_numbers(self._template, values)

    def to_json(self) -> str:
        template = self._template.SerializeToString(deterministic=True)
        document = {
            "version": 1,
            "template": base64.b64encode(template).decode(),
            "solved": [
                [position, str(function.offset), str(function.slope), function.size]
                for position, function in self._solved.items()
            ],
        }
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Derivation:
        try:
            document = json.loads(text)
            template = ModelProto.FromString(base64.b64decode(document["template"]))
            solved = {
                int(position): Affine(Fraction(offset), Fraction(slope), _size(size))
                for position, offset, slope, size in document["solved"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise SkeletonError(f"a derivation must be its JSON, but got {error!r}") from None
        return cls(template, solved)


def _size(value: list[list[str | int]]) -> tuple[tuple[str, int], ...]:
    return tuple((str(group), int(multiple)) for group, multiple in value)
