"""Builds, loads and traces an uploaded model in a child process that can be killed.

    python -m workers.inspection < request.json > answer.json

The request is an `Inspection`; the answer is {"report": …, "verdicts": …} or {"problem": …}, with
{"late": true} where more time may help.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.spec import ModelSpec
from workers.child import STUMBLED, Limits, run_in_child
from workers.retrying import ending_if_passing, is_passing

# A trace ends by itself at its limit; building and loading the model come before it.
MOST_PROCESSOR_TIME = 2.0
MOST_LOADING_S = 120.0
IDLE_S = 300.0
SHARE_OF_WALL = 0.8  # of what a trace may take; a child that goes on is stopped


class Inspection(BaseModel):
    """What the child is asked to look at.

    Attributes:
        time_limit_s: processor time of the trace.
        wall_limit_s: after this long the child is stopped.
        verdicts: what earlier rounds told, as `Verdicts.to_json` writes it.
    """

    model_config = ConfigDict(extra="forbid")

    spec: ModelSpec
    weights: Path
    allow: list[str]
    time_limit_s: float
    wall_limit_s: float
    verdicts: str = ""


def inspect_in_child(request: Inspection, *, idle_s: float = IDLE_S) -> dict[str, Any]:
    """Runs the inspection in a process of its own and never raises for what the model does.

    Raises:
        Stumble: The weights, say, could not be read for now.

    Returns:
        {"report": the graph report, "verdicts": what its trials told} or {"problem": a problem
        document}, with {"late": True} where more time may help.
    """
    cpu_s = _most_processor_time_s(request)
    limits = Limits(request.wall_limit_s, cpu_s=cpu_s, idle_s=idle_s)
    ended = run_in_child("workers.inspection", request.model_dump_json(), limits)
    if ended.answer is not None:
        return ended.answer
    if ended.status is None:
        return _problem(ended.words)
    if ended.status == -signal.SIGXCPU:
        return _problem(f"it took more than {cpu_s} s of processor time and was stopped")
    return _problem(f"the inspection ended with status {ended.status}: {ended.words}")


def _problem(detail: str) -> dict[str, Any]:
    kind = "urn:secateur:problem:InspectionError"
    title = "The model cannot be traced"
    return {"problem": {"type": kind, "title": title, "status": 422, "detail": detail}}


def inspect(request: Inspection) -> dict[str, Any]:
    """The work of the child: load, trace, report."""
    from search.errors import LateError, SearchError
    from search.graph import trace
    from search.graph.trial_log import Verdicts
    from search.recalibration import recalibration
    from workers.loaders.errors import LoadError
    from workers.loaders.models import example_inputs, input_part, input_shape, load_model

    notes: dict[str, str] = {}
    try:
        model = load_model(
            request.spec, request.weights, allow=request.allow, note=notes.__setitem__
        )
        inputs = example_inputs(model, request.spec)
        graph = trace(
            model,
            inputs,
            time_limit_s=request.time_limit_s,
            wall_limit_s=SHARE_OF_WALL * request.wall_limit_s,
            verdicts=Verdicts.from_json(request.verdicts) if request.verdicts else None,
        )
    except LoadError as error:
        if is_passing(error):
            raise
        return {"problem": error.problem()}
    except LateError as error:
        return {**_problem(str(error)), "late": True}
    except SearchError as error:
        return _problem(str(error))
    found = {
        "input_shape": list(input_shape(model, request.spec)),
        "recalibration": recalibration(model),
        "adapted": notes,
        "input": input_part(model, request.spec),
    }
    return {"report": graph.report() | found, "verdicts": graph.verdicts.to_json()}


def _most_processor_time_s(request: Inspection) -> int:
    return round(MOST_PROCESSOR_TIME * request.time_limit_s + MOST_LOADING_S)


def main() -> None:
    request = Inspection.model_validate_json(sys.stdin.buffer.read())
    with ending_if_passing(STUMBLED):
        answer = inspect(request)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
