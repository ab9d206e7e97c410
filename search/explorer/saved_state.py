"""Inputs and settings of an explorer as JSON objects, for its saved state. Runs no search."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from search.errors import ExplorerError
from search.explorer.config import SearchConfig
from search.explorer.importance import Importance, SensitivityLike
from search.explorer.outcomes import Needs, Outcome, outcome_from_json
from search.explorer.staircase import Stairs

_LARGE = 1e30


class SavedSensitivity:
    """A sensitivity as a saved state holds it.

    Args:
        ratios: Removed parts of a group, shape (R,).
        rises: Group -> loss rise at each ratio, shape (R,).
    """

    def __init__(self, ratios: Sequence[float], rises: Mapping[str, Sequence[float]]) -> None:
        self.ratios, self.rises = ratios, rises

    @classmethod
    def read(cls, document: Mapping[str, Any] | None) -> "SavedSensitivity | None":
        """The sensitivity of a JSON object; None where the search had none."""
        return None if document is None else cls(document["ratios"], document["rises"])


def config_to_json(config: SearchConfig) -> dict[str, Any]:
    """The settings, with lists in place of tuples, as JSON returns them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
    }


def config_from_json(document: Mapping[str, Any]) -> SearchConfig:
    """The settings as they were saved; what a version did not know yet it did not do."""
    return SearchConfig(**{"refinements": 0, "widen": False, **document})


def inputs_to_json(
    floors: Mapping[str, int],
    sensitivity: SensitivityLike | None,
    staircases: Mapping[str, Mapping[Any, float]] | None,
    importance: Importance,
    int8_staircases: Mapping[str, Mapping[Any, float]] | None = None,
) -> dict[str, Any]:
    """The inputs of a search in a form that can be saved and compared.

    Args:
        floors: Group -> least width.
        sensitivity: Measured loss rises, if any.
        staircases: Group -> width -> ratio; only searched groups are saved.
        importance: For the names of the groups and the fingerprint of widths and scores.

    Raises:
        ExplorerError: Floors name unknown groups.
    """
    unknown = sorted(set(floors) - importance.all_widths.keys() - importance.segments.keys())
    if unknown:
        raise ExplorerError(f"floors must name groups of the graph, but got {unknown}")
    given = {
        "fingerprint": importance.fingerprint,
        "floors": {name: int(floors[name]) for name in sorted(floors)},
        "sensitivity": None if sensitivity is None else _sensitivity_to_json(sensitivity),
        "staircases": _known_rows(staircases or {}, importance),
    }
    if importance.segments:
        given["segments"] = {
            name: list(segment.layers) for name, segment in importance.segments.items()
        }
        given["int8_staircases"] = _known_rows(int8_staircases or {}, importance)
    return given


def outcomes_from_json(
    rows: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, Needs], Outcome]:
    """Digest and question -> outcome."""
    found = {}
    for row in rows:
        fields = {name: value for name, value in row.items() if name not in ("digest", "needs")}
        found[row["digest"], row["needs"]] = outcome_from_json(fields)
    return found


def rows_to_json(stairs: Mapping[str, Stairs]) -> dict[str, dict[str, float]]:
    """Staircases by text, as JSON has its keys."""
    return {
        name: {str(width): rows[width] for width in sorted(rows)}
        for name, rows in sorted(stairs.items())
    }


def rows_from_json(rows: Mapping[str, Mapping[str, float]]) -> dict[str, Stairs]:
    """Inverse of `rows_to_json`."""
    return {
        name: {int(width): float(ratio) for width, ratio in each.items()}
        for name, each in rows.items()
    }


def _known_rows(
    staircases: Mapping[str, Mapping[Any, float]], importance: Importance
) -> dict[str, dict[str, float]]:
    return {
        name: {str(int(width)): float(rows[width]) for width in rows}
        for name, rows in sorted(staircases.items())
        if name in importance.widths
    }


def _sensitivity_to_json(sensitivity: SensitivityLike) -> dict[str, Any]:
    return {
        "ratios": [float(ratio) for ratio in sensitivity.ratios],
        "rises": {
            name: [_finite(rise) for rise in sensitivity.rises[name]]
            for name in sorted(sensitivity.rises)
        },
    }


def _finite(rise: float) -> float:
    """JSON has no infinity; a rise this large is as good as one."""
    return min(max(float(rise), -_LARGE), _LARGE) if rise == rise else _LARGE
