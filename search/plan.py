"""Plan: which units of which groups are kept, and which layers run in int8.

It knows neither models nor torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

from search.errors import PlanError

VERSION = 2
BEFORE_PRECISION = 1  # what is still written of plans without precision: digests stay
INT8 = "int8"


class Sized(Protocol):
    """Anything with a name and a width; a group of the graph is one."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...


def best_of(
    order: Sequence[int], count: int, parts: Sequence[Sequence[int]] = ()
) -> tuple[int, ...]:
    """The first `count` units of `order`, ascending, but one of each part whatever its place.

    Args:
        order: all units, best first.
        count: how many to keep; more are kept only where the parts require it.
        parts: sets of units of which one must stay each, see `Group.required_any_of`.
    """
    needed: dict[int, None] = {}
    for part in parts:
        if needed.keys().isdisjoint(part):
            needed[next(unit for unit in order if unit in part)] = None
    ranked = [*needed, *(unit for unit in order if unit not in needed)]
    return tuple(sorted(ranked[: max(count, len(needed))]))


@dataclass(frozen=True)
class Plan:
    """The kept units of every group, the removed units that were merged into kept ones, and the
    layers that run in int8.

    Attributes:
        kept: group name -> kept unit numbers, ascending; every group of the graph appears. None
            are left of a block that is removed.
        absorbed: group name -> removed unit -> (kept unit, scale). The readers of the kept unit
            add the removed unit's columns times `scale`.
        precision: layer -> `int8`, see `search.quantization`; a layer not named stays float.
    """

    kept: Mapping[str, tuple[int, ...]]
    absorbed: Mapping[str, Mapping[int, tuple[int, float]]] = field(default_factory=dict)
    precision: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group, units in self.kept.items():
            _check_units(group, units)
        for group, merges in self.absorbed.items():
            _check_merges(group, merges, self.kept.get(group, ()))
        _check_precision(self.precision)

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def dense(cls, groups: Iterable[Sized]) -> Plan:
        """The plan that removes nothing."""
        return cls({group.name: tuple(range(group.width)) for group in groups})

    @property
    def widths(self) -> dict[str, int]:
        """Group name -> number of kept units."""
        return {group: len(units) for group, units in self.kept.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: the name of a candidate."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        document: dict[str, Any] = {
            "version": VERSION if self.precision else BEFORE_PRECISION,
            "kept": {group: list(units) for group, units in self.kept.items()},
            "absorbed": {
                group: {str(unit): [kept, scale] for unit, (kept, scale) in merges.items()}
                for group, merges in self.absorbed.items()
                if merges
            },
        }
        if self.precision:
            document["precision"] = dict(self.precision)
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`.

        Raises:
            PlanError: `text` is not the JSON of a plan.
        """
        try:
            document = json.loads(text)
        except ValueError as error:
            raise PlanError(f"a plan must be JSON, but got: {error}") from None
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Any) -> Plan:
        """A plan from parsed JSON; raises PlanError on anything malformed."""
        if not isinstance(document, dict):
            raise PlanError(f"a plan must be a JSON object, but got {_kind(document)}")
        version = document.get("version")
        if version not in (BEFORE_PRECISION, VERSION):
            known = f"{BEFORE_PRECISION} or {VERSION}"
            raise PlanError(f"version must be {known}, but got {version!r}")
        kept = _object(document.get("kept"), "kept")
        absorbed = _object(document.get("absorbed", {}), "absorbed")
        return cls(
            {group: tuple(_list(units, f"kept[{group!r}]")) for group, units in kept.items()},
            {group: _merges(group, merges) for group, merges in absorbed.items()},
            _object(document.get("precision", {}), "precision"),
        )


def _check_units(group: str, units: tuple[int, ...]) -> None:
    if not isinstance(group, str):
        raise PlanError(f"group names must be strings, but got {group!r}")
    if any(type(unit) is not int or unit < 0 for unit in units):
        raise PlanError(f"units of {group!r} must be integers ≥ 0, but got {units!r:.80}")
    if any(low >= high for low, high in pairwise(units)):
        raise PlanError(
            f"units of {group!r} must be ascending and distinct, but got {units!r:.80}"
        )


def _check_merges(
    group: str, merges: Mapping[int, tuple[int, float]], kept: tuple[int, ...]
) -> None:
    for unit, (absorber, scale) in merges.items():
        if unit in kept or absorber not in kept:
            raise PlanError(
                f"in {group!r} a removed unit must be absorbed by a kept one, but got "
                f"{unit} into {absorber}"
            )
        if not abs(scale) < float("inf"):
            raise PlanError(f"scales of {group!r} must be finite, but got {scale}")


def _check_precision(precision: Mapping[str, str]) -> None:
    for layer, kind in precision.items():
        if not isinstance(layer, str) or kind != INT8:
            raise PlanError(f"precision must map a layer to {INT8!r}, but got {layer!r}: {kind!r}")


def _merges(group: str, value: Any) -> dict[int, tuple[int, float]]:
    merges = _object(value, f"absorbed[{group!r}]")
    try:
        return {int(unit): (int(kept), float(scale)) for unit, (kept, scale) in merges.items()}
    except (TypeError, ValueError):
        raise PlanError(
            f"absorbed[{group!r}] must map a unit to [unit, scale], but got {value!r:.80}"
        ) from None


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PlanError(f"{name} must be a JSON object, but got {_kind(value)}")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise PlanError(f"{name} must be a list, but got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
