"""What can be pruned of a network, before any search, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.tables import percent, table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search.graph import PruningGraph

LONG = 20
CAUSES = 5


@dataclass(frozen=True, repr=False)
class Inspection:
    """What was found.

    Attributes:
        report: As `GET /v1/models/{id}/graph` describes it.
        graph: The analysis itself, for `search`.
    """

    report: Mapping[str, Any]
    graph: PruningGraph

    def __repr__(self) -> str:
        prunable = len(self.graph.prunable)
        return (
            f"Inspection({prunable} of {len(self.graph.groups)} groups can be pruned, which touch "
            f"{percent(self.report['prunable_mac_share'])} of the multiply-accumulates)"
        )

    def __str__(self) -> str:
        """The summary, the groups, costliest first, and what freezes the others."""
        report = self.report
        half = report.get("half_width") or {}
        facts = [
            ("parameters", f"{report['parameters']:,}"),
            ("multiply-accumulates", f"{report['macs']:,}"),
            ("prunable parameters", percent(report["prunable_parameter_share"])),
            ("prunable multiply-accumulates", percent(report["prunable_mac_share"])),
            ("gone at half width", percent(half.get("mac_share_exact"))),
            ("verified", "all" if report.get("complete", True) else "not all: allow more time"),
        ]
        groups = sorted(report["groups"], key=lambda group: -(group.get("macs") or 0))
        rows = [
            (g["name"], g["kind"], g["width"], g["status"], g.get("reason") or "")
            for g in groups[:LONG]
        ]
        text = table((), facts) + "\n\n"
        text += table(("group", "kind", "width", "status", "reason"), rows)
        if len(groups) > LONG:
            text += f"\nand {len(groups) - LONG} more groups"
        if frozen := (report.get("frozen") or [])[:CAUSES]:
            causes = [(each["cause"], len(each["groups"])) for each in frozen]
            text += "\n\n" + table(("what freezes groups", "groups"), causes)
        return text


def inspect(
    model: nn.Module, inputs: Tensor | Sequence[Tensor], *, time_limit_s: float = 60.0
) -> Inspection:
    """Finds what can be pruned of a network, and verifies it.

    Args:
        model: Any network that torch.export takes; it is not touched.
        inputs: Example inputs (B, …), B ≥ 1: a tensor, or several.
        time_limit_s: Processor time; what is not verified by then is frozen.

    Raises:
        search.errors.GraphError: The network cannot be traced.
    """
    from torch import Tensor

    from search.graph import trace

    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    graph = trace(model, given, time_limit_s=time_limit_s)
    return Inspection(graph.report(), graph)
