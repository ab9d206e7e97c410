"""One model, from building to loading it elsewhere: the row that it earns.

| stage | what must hold |
|---|---|
| trace, prune | no exception |
| forward, train | as the dense model: batches of 1, 2, 3; gradients in both modes |
| equality | the oracle agrees on the half plans and on a random one |
| onnx | ONNX Runtime computes the same |
| save, load | a fresh process computes the same |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage import checks
from benchmarks.coverage.oracle import Oracle, WrongOutput, outputs_of
from benchmarks.coverage.plans import ALL, EXACT, half_plan, random_plan
from benchmarks.coverage.rows import Row, is_enough
from benchmarks.coverage.stages import Stages
from benchmarks.coverage.subjects import load
from search import PruningGraph, prune, trace

Tracer = Callable[..., PruningGraph]
SHARE_OF_LIMIT = 0.8  # of what is left after building; pruning needs the rest


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, one example of each of its inputs, and a folder for files about it."""

    name: str
    model: nn.Module
    inputs: tuple[Tensor, ...]
    folder: Path


@dataclass
class Findings:
    """What is known of a model so far."""

    exact: float = 0.0
    approximate: float = 0.0
    frozen_because: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def examine(
    name: str,
    folder: Path,
    *,
    time_limit_s: float,
    quick: bool = False,
    tracer: Tracer = trace,
) -> Row:
    """Take `name` through all stages.

    Args:
        name: a model; see `load`.
        folder: for files that pass between processes.
        time_limit_s: for building, tracing and pruning together, as time passes; tracing is told
            what is left.
        quick: leave out training, export and loading.
        tracer: what finds the groups.
    """
    stages, findings = Stages(folder), Findings()
    try:
        with stages.stage("build"):
            model, inputs = load(name)
        subject = Subject(name, model, inputs, folder)
        graph, pruned = _analyse(subject, time_limit_s, tracer, stages, findings)
        with stages.stage("equality"):
            _judge(findings, subject, graph)
        if not quick:
            _use(subject, graph, pruned, stages, findings)
    except Exception as error:  # every failure is a row
        findings.detail["wrong_output"] = isinstance(error, WrongOutput)
        return _row(name, stages, findings, f"{stages.current}: {checks.said(error)}")
    return _row(name, stages, findings, "")


def _analyse(
    subject: Subject, time_limit_s: float, tracer: Tracer, stages: Stages, findings: Findings
) -> tuple[PruningGraph, nn.Module]:
    """Trace, prune, count and run; the graph, and the model at half width."""
    model, inputs = subject.model, subject.inputs
    with stages.stage("run dense"):
        expected = outputs_of(model, inputs)
        if not expected:
            raise checks.CheckFailed("the dense model returns no tensor")
    with stages.stage("trace"):
        left = max(1.0, SHARE_OF_LIMIT * (time_limit_s - stages.analysis_s))
        graph = tracer(model, inputs, time_limit_s=left, wall_limit_s=left)
    findings.detail |= {"traced": True, **_described(graph)}
    findings.frozen_because = main_reason(graph)
    exact_plan, plan = half_plan(graph, EXACT), half_plan(graph, ALL)
    with stages.stage("prune"):
        pruned = prune(model, graph, plan)
        exactly = pruned if plan == exact_plan else prune(model, graph, exact_plan)
    findings.detail["form"] = type(pruned).__name__
    with stages.stage("count"):
        _count(findings, model, exactly, pruned, inputs)
    del exactly
    with stages.stage("forward"):
        findings.notes += checks.run_batches(pruned, model, inputs)
    return graph, pruned


def _use(
    subject: Subject, graph: PruningGraph, pruned: nn.Module, stages: Stages, findings: Findings
) -> None:
    """Train, export, save, and load elsewhere."""
    model, inputs, folder = subject.model, subject.inputs, subject.folder
    with stages.stage("train"):
        findings.notes += checks.train_once(pruned, model, inputs)
    with stages.stage("onnx"):
        findings.notes += checks.export_to_onnx(pruned, model, inputs, folder)
    with stages.stage("save"):
        checks.save(folder, subject.name, model, graph, half_plan(graph), pruned)
    with stages.stage("load"):
        checks.load_elsewhere(folder, inputs, outputs_of(pruned, inputs))


def _count(
    findings: Findings,
    model: nn.Module,
    exactly: nn.Module,
    pruned: nn.Module,
    inputs: tuple[Tensor, ...],
) -> None:
    whole = max(1, checks.macs_of(model, inputs))
    after_exact = checks.macs_of(exactly, inputs)
    after = after_exact if pruned is exactly else checks.macs_of(pruned, inputs)
    findings.exact = round(1 - after_exact / whole, 4)
    findings.approximate = round((after_exact - after) / whole, 4)
    findings.detail["macs"] = whole


def _judge(findings: Findings, subject: Subject, graph: PruningGraph) -> None:
    oracle = Oracle(subject.model, checks.batch_of(subject.inputs, 2), graph, prune)
    plans = {
        "exact half": half_plan(graph, EXACT),
        "half": half_plan(graph, ALL),
        "random": random_plan(graph),
    }
    judged: dict[str, Any] = {}
    for title, plan in plans.items():
        if plan not in (graph.dense_plan(), *list(plans.values())[: len(judged)]):
            try:
                verdict = oracle.judge(plan)
            except WrongOutput as error:
                raise WrongOutput(f"{title} plan: {error}") from error
            judged[title] = [verdict.way, verdict.error, verdict.control]
    findings.detail["equality"] = judged


def _described(graph: PruningGraph) -> dict[str, Any]:
    statuses = Counter(group.status for group in graph.groups if group.kind != "block")
    kinds = Counter(group.kind for group in graph.prunable)
    frozen = [g.reason for g in graph.groups if g.status == "frozen" and g.width > 1]
    return {
        "groups": dict(statuses),
        "kinds": dict(kinds),
        "removable_blocks": len(graph.removable),
        "frozen_reasons": dict(Counter(frozen).most_common(8)),
        "dynamic_batch": graph.dynamic_batch,
    }


def main_reason(graph: PruningGraph) -> str:
    """The reason that keeps most weights from being cut."""
    weights: Counter[str] = Counter()
    for group in graph.groups:
        if group.status == "frozen" and group.width > 1:
            weights[group.reason] += sum(
                torch.Size(graph.shapes[member.tensor]).numel()
                for member in group.members
                if member.role != "follower"
            )
    if not weights:
        return "it has no groups" if not graph.prunable else "its groups hold too little"
    return weights.most_common(1)[0][0]


def _row(name: str, stages: Stages, findings: Findings, failure: str) -> Row:
    detail = {**findings.detail, "stages": stages.seconds, "cpu": stages.cpu_seconds}
    if findings.notes:
        detail["notes"] = findings.notes
    enough = is_enough(findings.exact, findings.approximate)
    return Row(
        name=name,
        status="failed" if failure else "ok" if enough else "frozen",
        macs_removed=findings.exact,
        macs_removed_approximate=findings.approximate,
        seconds=round(stages.analysis_s, 2),
        reason=failure or ("" if enough else findings.frozen_because),
        detail=detail,
    )
