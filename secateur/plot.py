"""A result as one SVG picture: every candidate by latency and loss, the budget, the choice.

Takes the report of `Result` or the `report.json` of a job; knows no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from secateur.tables import milliseconds, percent
from workers.report.plots import HEIGHT, WIDTH, scatter

HEADER = 78
TITLE = "Candidates by measured latency and loss"
LEGEND = (
    "Each point is a network that was measured, before fine-tuning; "
    "red: the result, and the budget."
)
STYLE = (
    "text{font:12px sans-serif;fill:#33413a}.title{font-size:16px;font-weight:600}"
    ".note{fill:#66756e}.axis{stroke:#7a8a82}.budget{stroke:#b3261e;stroke-dasharray:5 4}"
    ".front{fill:none;stroke:#2e7d5b}circle{fill:#8fb8a4}.level0{fill:#d5ddd9}.chosen{fill:#b3261e}"
)


def svg(report: Mapping[str, Any], title: str = "") -> str:
    """The picture.

    Args:
        report: Of the library, or of a job, whose figures are under `result`.
        title: Above it.
    """
    found = {**report, **report.get("result", {})}
    budget = found.get("budget_ratio", found.get("budget"))
    chosen = found.get("candidate", found.get("plan_digest"))
    figures = (
        f"{milliseconds(found['dense_latency_ms'])} → {milliseconds(found['latency_ms'])}, "
        f"{percent(found['ratio'])} of the dense latency (budget {percent(budget)}); "
        f"accuracy {percent(found['dense_accuracy'], 2)} → {percent(found['accuracy'], 2)}"
    )
    inner = scatter([dict(row) for row in report["tree"]], float(budget or 1.0), chosen)
    if not inner.startswith("<svg"):
        inner = f'<text x="20" y="40">{escape("No candidate was scored.")}</text>'
    else:
        inner = inner[inner.index(">") + 1 : inner.rindex("</svg>")]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + HEADER}" '
        f'role="img"><style>{STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text class="title" x="16" y="26">{escape(title or TITLE)}</text>'
        f'<text x="16" y="47">{escape(figures)}</text>'
        f'<text class="note" x="16" y="65">{escape(LEGEND)}</text>'
        f'<g transform="translate(0 {HEADER})">{inner}</g></svg>\n'
    )
