"""`secateur models inspect`: what a model is made of, what can be pruned, and why the rest cannot.

It reads the stored report of the check (`GET /v1/models/{id}/graph`) and knows no model.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from api.cli.output import DASH, percent, say, show_fields, show_table

if TYPE_CHECKING:
    from api.routes.views import ModelView

LONG = 30
NAMES = 3


CAUSES = ("Why", "Groups", "Units", "MACs touched", "Such as")
GROUPS = ("Group", "Kind", "Width", "MACs touched", "Status", "Result", "Reason")


class Order(StrEnum):
    """How the groups are sorted."""

    MACS = "macs"
    WIDTH = "width"
    MODEL = "model"


TITLES = {
    Order.MACS: "costliest first",
    Order.WIDTH: "widest first",
    Order.MODEL: "in model order",
}


def show_model(model: "ModelView", *, order: Order = Order.MACS, everything: bool = False) -> None:
    """Writes a summary, the causes that freeze groups, and the groups.

    Args:
        model: The model with its report.
        order: Costliest first, widest first, or as in the model.
        everything: Shows more than the first groups of a long list.
    """
    report: Mapping[str, Any] = model.report or {}
    show_fields(_summary(model, report))
    if report.get("frozen"):
        say("\nFrozen groups, those that hold back most first:")
        show_table(CAUSES, map(_cause, report["frozen"]), "")
    groups = report.get("groups") or []
    if groups:
        shown = _sorted(groups, order)[: None if everything else LONG]
        more = f" ({len(shown)} of {len(groups)}; --all shows the rest)"
        say(f"\nGroups, {TITLES[order]}{more if len(shown) < len(groups) else ''}:")
        show_table(GROUPS, [_group(group, report) for group in shown], "")


def _summary(model: "ModelView", report: Mapping[str, Any]) -> dict[str, object]:
    half = report.get("half_width") or {}
    return {
        "name": model.name,
        "id": model.id,
        "state": model.state,
        "architecture": model.spec.get("architecture"),
        "input shape": model.spec.get("input_shape") or report.get("input_shape"),
        "parameters": _count(report.get("parameters")),
        "MACs": _count(report.get("macs")),
        "groups": _statuses(report.get("groups") or []),
        "removable blocks": report.get("removable_blocks"),
        "prunable parameters": _shares(report, "prunable_parameter_share"),
        "prunable MACs": _shares(report, "prunable_mac_share"),
        "gone at half width": _gone(half),
        "result": _result(report),
        "traced": _traced(report),
        "verified": _verified(report),
        "recalibrated by": report.get("recalibration"),
        "not used": _some(report.get("unused") or []),
        **(report.get("adapted") or {}),
        "problem": (model.problem or {}).get("detail"),
    }


def _statuses(groups: Sequence[Mapping[str, Any]]) -> str:
    found = [group.get("status") for group in groups if group.get("kind") != "block"]
    told = [
        f"{found.count(status)} {word}"
        for status, word in (
            ("prunable", "exact"),
            ("approximate", "approximate"),
            ("frozen", "frozen"),
        )
        if status in found
    ]
    return ", ".join(told)


def _shares(report: Mapping[str, Any], key: str) -> str:
    """The whole; exact and approximate apart where both are known."""
    whole = percent(report.get(key))
    if f"{key}_exact" not in report or not report.get(f"{key}_approximate"):
        return whole
    exact, approximate = (percent(report[f"{key}_{kind}"]) for kind in ("exact", "approximate"))
    return f"{whole} ({exact} exact, {approximate} approximate)"


def _gone(half: Mapping[str, Any]) -> str:
    if not half:
        return DASH
    told = {
        kind: f"{percent(half.get(f'mac_share_{kind}'))} of MACs and "
        f"{percent(half.get(f'parameter_share_{kind}'))} of parameters"
        for kind in ("exact", "approximate")
    }
    if not half.get("parameter_share_approximate"):
        return told["exact"]
    return f"{told['exact']} by exact groups, {told['approximate']} more by approximate ones"


def _result(report: Mapping[str, Any]) -> str:
    """What a pruned model is."""
    if "graph_form_groups" not in report or not report.get("prunable_groups"):
        return DASH
    names = report["graph_form_groups"]
    if not names:
        return "pruned models are of your class"
    return (
        f"a PrunedGraph where one of {len(names)} groups is cut ({_some(names)}), else your class"
    )


def _traced(report: Mapping[str, Any]) -> str:
    """The whole, or the parts that could be, and what was in the way."""
    parts = report.get("parts") or []
    return f"in parts ({', '.join(parts)}): {report.get('obstacle')}" if parts else "as a whole"


def _verified(report: Mapping[str, Any]) -> str:
    """All, or what was left open, why, and what that means."""
    if "complete" not in report:
        return DASH
    if report["complete"]:
        return "all"
    names = report.get("unfinished") or []
    left = (
        f"{len(names)} of {len(report.get('groups') or [])} groups and blocks ({_some(names)}) "
        "were not verified in time, and stay whole"
        if names
        else "it was not tried in time whether your class can lose some groups"
    )
    return f"unfinished: {left}; {report.get('unfinished_because') or 'give it more time'}"


def _cause(entry: Mapping[str, Any]) -> tuple[object, ...]:
    names = entry.get("groups") or []
    share = percent(entry.get("mac_share"))
    return (entry.get("cause"), len(names), entry.get("units"), share, _some(names))


def _group(group: Mapping[str, Any], report: Mapping[str, Any]) -> tuple[object, ...]:
    macs, whole = group.get("macs"), report.get("macs")
    share = percent(macs / whole) if isinstance(macs, int) and whole else DASH
    form = {"module": "your class", "graph": "PrunedGraph"}.get(str(group.get("form")))
    status = group.get("status")
    return (
        group.get("name"),
        group.get("kind"),
        group.get("width"),
        share,
        {"prunable": "exact"}.get(str(status), status),
        form if status != "frozen" else None,
        group.get("reason"),
    )


def _sorted(groups: Sequence[Mapping[str, Any]], order: Order) -> list[Mapping[str, Any]]:
    if order is Order.MODEL:
        return list(groups)
    return sorted(groups, key=lambda group: -(group.get(order.value) or 0))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else DASH
