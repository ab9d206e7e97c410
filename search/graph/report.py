"""What a user reads of an analysis before any search: sizes, shares, reasons. JSON, no layout.

| term | meaning |
|---|---|
| touched | a weight, or its multiply-accumulates, that some unit of a group creates or reads |
| exact, approximate | what exact groups give, and what approximate ones give on top of that |
| half width | every prunable group at half of its units, rounded up; all blocks stay |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from search.graph.dependency.costs import Product, touched
from search.graph.dependency.groups import Group
from search.graph.dependency.labels import KeepMask
from search.graph.footprint import Measurable, footprint

_PLACE = re.compile(r" \(operator [^()]*\)$")
_DETAILS = re.compile(
    r"(?<=unverified: )beside .*?, (?=the )|(?<=is off) by \S+|(?<=on smaller tensors) \(.*\)"
)


class Analysis(Measurable, Protocol):
    """What a report needs of a `PruningGraph`, see there."""

    @property
    def groups(self) -> tuple[Group, ...]: ...
    @property
    def prunable(self) -> tuple[Group, ...]: ...
    @property
    def removable(self) -> tuple[Group, ...]: ...
    @property
    def unused(self) -> tuple[str, ...]: ...
    @property
    def unfinished(self) -> tuple[str, ...]: ...
    @property
    def obstacle(self) -> str: ...
    @property
    def complete(self) -> bool: ...
    @property
    def dynamic_batch(self) -> bool: ...
    @property
    def mac_counts(self) -> tuple[Product, ...]: ...
    def kept_units(self, kept: Mapping[str, Sequence[int]]) -> KeepMask: ...


def describe(graph: Analysis) -> dict[str, Any]:
    """What can be pruned, how much that is, and why the rest cannot be, as JSON."""
    parameters = touched(graph.parameter_counts, graph.group_of)
    macs = touched(graph.mac_counts, graph.group_of)
    return {
        "groups": [
            _described(group, parameters.get(number, 0), macs.get(number, 0))
            for number, group in enumerate(graph.groups)
        ],
        "prunable_groups": len(graph.prunable),
        "removable_blocks": len(graph.removable),
        "parameters": _sum(graph.parameter_counts, graph.kept_units({})),
        "macs": _sum(graph.mac_counts, graph.kept_units({})),
        **_prunable_shares(graph),
        "half_width": _half_width(graph),
        "graph_form_groups": [g.name for g in graph.prunable if g.form == "graph"],
        "frozen": _frozen(graph),
        "parts": list(graph.parts),
        "obstacle": graph.obstacle,
        "unused": list(graph.unused),
        "complete": graph.complete,
        "unfinished": list(graph.unfinished),
        "batch": "dynamic" if graph.dynamic_batch else "static",
        "footprint": footprint(graph),
    }


def cause_of(reason: str) -> str:
    """A reason without the place and the numbers that differ from one group to the next."""
    return _DETAILS.sub("", _PLACE.sub("", reason))


def _described(group: Group, parameters: int, macs: int) -> dict[str, Any]:
    return {
        "name": group.name,
        "width": group.width,
        "min_width": group.min_width,
        "channels": group.channels,
        "kind": group.kind,
        "status": group.status,
        "reason": group.reason,
        "form": group.form,
        "parameters": parameters,
        "macs": macs,
        "members": [
            {"tensor": member.tensor, "dim": member.dim, "role": member.role}
            for member in group.members
        ],
    }


def _prunable_shares(graph: Analysis) -> dict[str, float]:
    """The shares that units of prunable groups touch."""
    shares = {}
    for what, products in _counts(graph).items():
        exact, both = _gone(graph, products, lambda width: 0)
        shares[f"prunable_{what}_share"] = both
        shares[f"prunable_{what}_share_exact"] = exact
        shares[f"prunable_{what}_share_approximate"] = both - exact
    return shares


def _half_width(graph: Analysis) -> dict[str, float]:
    """The shares that are gone at half width."""
    shares = {}
    for what, products in _counts(graph).items():
        exact, both = _gone(graph, products, lambda width: (width + 1) // 2)
        shares[f"{what}_share_exact"] = exact
        shares[f"{what}_share_approximate"] = both - exact
    return shares


def _counts(graph: Analysis) -> dict[str, tuple[Product, ...]]:
    return {"parameter": graph.parameter_counts, "mac": graph.mac_counts}


def _gone(
    graph: Analysis, products: Sequence[Product], keep: Callable[[int], int]
) -> tuple[float, float]:
    """The shares lost when exact groups are cut to `keep(width)` units, and when all are."""
    whole = _sum(products, graph.kept_units({}))
    shares = []
    for statuses in ({"prunable"}, {"prunable", "approximate"}):
        cut = {g.name: range(keep(g.width)) for g in graph.prunable if g.status in statuses}
        shares.append(1 - _sum(products, graph.kept_units(cut)) / whole if whole else 0.0)
    return shares[0], shares[1]


def _sum(products: Sequence[Product], kept: KeepMask) -> int:
    return sum(product.at(kept) for product in products)


def _frozen(graph: Analysis) -> list[dict[str, Any]]:
    """Frozen groups by cause, those that hold back most first."""
    whole = _sum(graph.mac_counts, graph.kept_units({}))
    causes: dict[str, list[Group]] = {}
    for group in graph.groups:
        if group.status == "frozen":
            causes.setdefault(cause_of(group.reason), []).append(group)
    entries = []
    for cause, groups in causes.items():
        without = graph.kept_units({group.name: range(0) for group in groups})
        lost = whole - _sum(graph.mac_counts, without)
        entries.append(
            {
                "cause": cause,
                "groups": [group.name for group in groups],
                "units": sum(group.width for group in groups),
                "mac_share": lost / whole if whole else 0.0,
            }
        )
    return sorted(entries, key=lambda entry: -float(str(entry["mac_share"])))
