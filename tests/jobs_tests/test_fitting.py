"""Constraints that exclude each other are refused by the report of the model, with the numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jobs.errors import SpecError
from jobs.fitting import check_constraints
from jobs.spec import JobSpec
from search.constraints import Constraints, constrained
from search.errors import ConfigError
from search.graph import PruningGraph, trace
from tests.search_tests.graph_tests.around import conv

JOB = {"model": "net", "dataset": "photos", "budget": "60%"}


class Net(nn.Module):
    """Two plain layers, a residual branch, and a head; the stem is frozen by its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv(3, 12), nn.Sequential(conv(12, 20), nn.ReLU(), conv(20, 12))
        self.wide, self.head = conv(12, 24), nn.Linear(24, 5)
        self.stem.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        logits: Tensor = self.head(self.wide(x + self.body(x)).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    torch.manual_seed(0)
    return trace(Net(), (torch.randn(2, 3, 4, 4),))


@pytest.fixture(scope="module")
def report(graph: PruningGraph) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(graph.report()))
    return found


def refusal(report: dict[str, Any] | None, job: dict[str, Any]) -> str:
    """What is said of a job; empty where it is taken."""
    try:
        check_constraints(JobSpec.model_validate(JOB | job), report)
    except SpecError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"exclude": ["stemm"]},
            "constraints.exclude must name layers of the model, but got 'ste",
        ),
        ({"exclude": ["stemm"]}, "did you mean 'stem'?"),
        ({"exclude": ["body", "wide"]}, "leave none of 4 groups: name fewer layers, or give prun"),
        ({"exclude": ["*"], "prune_frozen": True}, "* leave none of 4 groups: name fewer layers"),
        ({"max_parameters": 10}, "constraints.max_parameters must be >= "),
        ({"max_size_mb": 0.0001}, "constraints.max_size_mb must be >= 0.00"),
        ({"max_memory_mb": 0.001}, "what one call of the smallest pruned model holds at target.b"),
    ],
)
def test_what_no_plan_keeps_to_is_refused_with_what_would_do(
    report: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    assert said in refusal(report, {"constraints": given})


SEVERAL: list[dict[str, Any]] = [
    {},
    {"prune_frozen": True},
    {"multiple": 8},
    {"exclude": ["wide"]},
    {"exclude": ["body.*"], "multiple": 4, "prune_frozen": True},
    {"exclude": ["body"]},
]


@pytest.mark.parametrize("given", SEVERAL)
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("limit", ["max_parameters", "max_memory_mb"])
def test_the_report_refuses_just_what_the_analysis_does(
    graph: PruningGraph, report: dict[str, Any], given: dict[str, Any], blocks: bool, limit: str
) -> None:
    def both(value: float) -> tuple[str, str]:
        job = {
            "constraints": given | {limit: value},
            "search": {"blocks": blocks},
            "target": {"batch_size": 4},
        }
        try:
            constrained(graph, Constraints(**given | {limit: value}, blocks=blocks, batch_size=4))
        except ConfigError as error:
            return refusal(report, job), str(error)
        return refusal(report, job), ""

    told, said = both(1 if limit == "max_parameters" else 1e-6)
    least = told.split(">= ")[1].split(",")[0]
    assert f"≥ {least}" in said
    number = int(least) if limit == "max_parameters" else float(least)
    assert both(number) == ("", "")


def test_a_model_that_is_being_checked_or_has_an_old_report_refuses_nothing(
    report: dict[str, Any],
) -> None:
    job = {"constraints": {"max_parameters": 1}}
    assert refusal(None, job) == ""
    assert refusal({name: report[name] for name in report if name != "footprint"}, job) == ""
    assert refusal(report, {"constraints": {"min_accuracy": "90%"}}) == ""
