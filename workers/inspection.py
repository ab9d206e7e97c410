"""Builds, loads and traces an uploaded model in a child process that can be killed.

    python -m workers.inspection < request.json > answer.json

The request is an `Inspection`; the answer is {"report": …} or {"problem": …}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.spec import ModelSpec
from workers.child import Limits, run_in_child


class Inspection(BaseModel):
    """What the child is asked to look at."""

    model_config = ConfigDict(extra="forbid")

    spec: ModelSpec
    weights: Path
    allow: list[str]
    time_limit_s: float


def inspect_in_child(request: Inspection) -> dict[str, Any]:
    """Runs the inspection in a process of its own and never raises for what the model does.

    Returns:
        {"report": the graph report} or {"problem": a problem document}.
    """
    limits = Limits(request.time_limit_s)
    ended = run_in_child("workers.inspection", request.model_dump_json(), limits)
    if ended.status is None:
        return _problem(f"tracing took longer than {request.time_limit_s:.0f} s and was stopped")
    if ended.answer is not None:
        return ended.answer
    return _problem(f"the inspection ended with status {ended.status}: {ended.words}")


def _problem(detail: str) -> dict[str, Any]:
    kind = "urn:secateur:problem:InspectionError"
    title = "The model cannot be traced"
    return {"problem": {"type": kind, "title": title, "status": 422, "detail": detail}}


def inspect(request: Inspection) -> dict[str, Any]:
    """The work of the child: load, trace, report."""
    from search.errors import SearchError
    from search.graph import trace
    from search.training import recalibration
    from workers.loaders.errors import LoadError
    from workers.loaders.models import example_inputs, input_shape, load_model

    try:
        model = load_model(request.spec, request.weights, allow=request.allow)
        inputs = example_inputs(model, request.spec)
        graph = trace(model, inputs, time_limit_s=request.time_limit_s / 2)
    except LoadError as error:
        return {"problem": error.problem()}
    except SearchError as error:
        return _problem(str(error))
    found = {
        "input_shape": list(input_shape(model, request.spec)),
        "recalibration": recalibration(model),
    }
    return {"report": graph.report() | found}


def main() -> None:
    answer = inspect(Inspection.model_validate_json(sys.stdin.buffer.read()))
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
