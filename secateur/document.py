"""The report of a call in the form of a job's, so that both make the same page and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from latency_probes.samples import Measurement
from workers.report.details import details, ratio_while_disturbed
from workers.report.loading import loading
from workers.report.ways import ANSWER, simple_ways

if TYPE_CHECKING:
    from search.graph import PruningGraph
    from search.onnx_out import Delivered
    from search.plan import Plan

HERE = "this machine"


class Outcome(Protocol):
    """The part of a `Result` that the document tells of."""

    @property
    def graph(self) -> PruningGraph: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def delivery(self) -> Delivered: ...
    @property
    def int8(self) -> Mapping[str, Any]: ...
    @property
    def candidate(self) -> str: ...
    @property
    def tree(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def measurement(self) -> Measurement: ...
    @property
    def dense_measurement(self) -> Measurement: ...
    @property
    def ratio_interval(self) -> tuple[float, float]: ...
    @property
    def budget(self) -> float: ...
    @property
    def dense_latency_ms(self) -> float: ...
    @property
    def examples(self) -> int: ...
    @property
    def target(self) -> str: ...
    @property
    def unpruned(self) -> bool: ...
    def report(self) -> Mapping[str, Any]: ...


def document(result: Outcome) -> dict[str, Any]:
    """All that is known, see `workers.report.document`; without a job, and accuracy is that on the
    validation data."""
    analysis = result.graph.report()
    kind = type(result.graph.model)
    return {
        "version": 1,
        "job": None,
        "model": {"name": kind.__name__, "architecture": f"{kind.__module__}.{kind.__qualname__}"},
        "dataset": {"name": "given in Python"},
        "result": _result_part(result),
        "measurement": _measurement_part(result.measurement, result.target),
        "dense_measurement": _measurement_part(result.dense_measurement, result.target),
        "details": {
            "dense": details(result.dense_measurement.model_dump(mode="json")),
            "result": details(result.measurement.model_dump(mode="json")),
        },
        "onnx_difference": result.delivery.worst_difference,
        "delivery": delivery_part(result.delivery),
        "groups": analysis,
        "widths": {} if result.unpruned else dict(result.plan.widths),
        "precision": _precision_part(result.int8),
        "ways": simple_ways(
            result.tree, len(result.int8.get("searched", ())), result.budget, result.candidate
        ),
        "tree": [dict(row) for row in result.tree],
        "search_budget": result.budget,
        "loading": loading(analysis, result.plan.widths),
    }


def _result_part(result: Outcome) -> dict[str, Any]:
    told, measured = result.report(), result.measurement
    low, high = result.ratio_interval
    count = sum(row["ratio"] is not None for row in result.tree)
    known = ("within_budget", "unpruned", "ratio", "latency_ms", "dense_latency_ms", "accuracy",
             "dense_accuracy", "bytes", "dense_bytes", "parameters", "dense_parameters",
             "memory_mb", "dense_memory_mb", "plan_digest", "candidate", "target",
             "runtimes")  # fmt: skip
    return {name: told[name] for name in known} | {
        "budget_ratio": result.budget,
        "budget_ms": result.budget * result.dense_latency_ms,
        "ratio_low": low,
        "ratio_high": high,
        "further_devices": [],
        "disturbed_ratio": ratio_while_disturbed(measured.conditions.model_dump(), low, high),
        "verdict": measured.verdict,
        "device": HERE,
        "devices": [{"id": HERE, "name": HERE, "measured": count, "duty": None, "note": None}],
        "runtime": result.target.partition("/")[0],
        "runtime_version": measured.runtime_version,
        "measured": count,
        "measurements": {"measured": count, "reused": 0, "from_jobs": []},
        "levels": max((row["level"] for row in result.tree), default=0),
        "test_images": result.examples,
        "judged_on": "validation",
        "warning": ANSWER if told["in_int8_alone"] else None,
    }


def _measurement_part(found: Measurement, target: str) -> dict[str, Any]:
    shown = ("runtime_version", "protocol", "kind", "ratio", "ratio_low", "ratio_high",
             "latency_ms", "reference_ms", "verdict")  # fmt: skip
    return {name: getattr(found, name) for name in shown} | {
        "device": HERE,
        "target": target,
        "conditions": found.conditions.model_dump(mode="json"),
    }


def _precision_part(int8: Mapping[str, Any]) -> dict[str, Any]:
    """As `workers.report.document.precision_part`, without the rises."""
    rows = [
        {"layer": name, "segment": None, "rise": None}
        | {"precision": "int8" if name in int8["layers"] else "float32"}
        for name in int8.get("searched", ())
    ]
    return {"format": int8.get("format"), "dense": int8.get("dense", {}), "layers": rows}


def delivery_part(made: Delivered) -> dict[str, Any]:
    """How a file was made and compared, as JSON."""
    return {
        "way": made.way,
        "reason": made.reason,
        "opset": made.opset,
        "notes": list(made.notes),
        "batches": list(made.batches),
        "sizes": {name: list(sizes) for name, sizes in made.sizes.items()},
    }
