"""report.json: all that is known of a finished job, for people and programs."""

from __future__ import annotations

from typing import Any

from jobs.tables import Measurement
from search.sensitivity import RATIOS
from workers.outcome import outcome_of
from workers.phases import precision
from workers.phases.advice import advice
from workers.phases.demands import tightest
from workers.phases.facts import PACKAGE_DENSE, Verified, dense_measurement, finalists
from workers.report.loading import loading
from workers.report.ways import Row, simple_ways
from workers.results import Finished, Packaged, finite
from workers.snapshot import Snapshot


def report_document(
    snapshot: Snapshot,
    finished: Finished,
    best: Verified | None,
    tree: list[dict[str, Any]],
    details: dict[str, Any],
) -> dict[str, Any]:
    """The whole report; `best` None is a result that is the dense model itself.

    Args:
        details: of the dense model and of the result, see `workers.report.details`.
    """
    row = dense_measurement(snapshot) if best is None else best.latency
    packaged = (
        Packaged.model_validate(snapshot.result(PACKAGE_DENSE)) if best is None else best.packaged
    )
    widths = {} if best is None else best.chosen.to_plan().widths
    bits = precision_part(snapshot, best)
    return {
        "version": 1,
        "job": {"id": snapshot.job.id, "name": snapshot.job.name, "spec": snapshot.job.spec},
        "model": {
            "name": snapshot.model.name,
            "architecture": snapshot.model.spec["architecture"],
        },
        "dataset": {"name": snapshot.dataset.name},
        "result": outcome_of(snapshot, finished, best),
        "measurement": measurement_part(row),
        "dense_measurement": measurement_part(dense_measurement(snapshot)),
        "details": details,
        "finalists": [] if best is None else [each.model_dump() for each in finalists(snapshot)],
        "validation": None if best is None else best.finetuned.model_dump(exclude={"weights"}),
        "onnx_difference": None if best is None else best.packaged.worst_difference,
        "delivery": packaged.model_dump(
            include={"way", "reason", "opset", "notes", "batches", "sizes"}, mode="json"
        ),
        "groups": snapshot.model.report,
        "recalibration": (snapshot.model.report or {}).get("recalibration"),
        "widths": widths,
        "precision": bits,
        "ways": _ways(tree, bits, snapshot, best),
        "tree": tree,
        "search_budget": tightest(snapshot),
        "advice": advice(snapshot, snapshot.job.progress or {}),
        "loading": loading(snapshot.model.report or {}, widths),
    }


def _ways(
    tree: list[dict[str, Any]], bits: dict[str, Any], snapshot: Snapshot, best: Verified | None
) -> list[Row]:
    """The simple ways, and the chosen plan; none without a search."""
    chosen = "" if best is None else best.chosen.digest
    return simple_ways(tree, len(bits["layers"]), tightest(snapshot), chosen, bits["rise"])


def precision_part(snapshot: Snapshot, best: Verified | None) -> dict[str, Any]:
    """What runs in which precision, and why.

    Returns:
        `format` of layers in int8, None where the device has none; `dense`, format -> measured
        ratio of the dense model in int8; `rise`, that of the calibration loss with all layers in
        int8; `layers`, each with its `precision` and the `rise` that its segment answers for,
        None where that of all was within the standard error of the loss.
    """
    form = precision.format_of(snapshot)
    int8 = {} if best is None else best.chosen.to_plan().precision
    rises = {name: values[-1] / RATIOS[-1] for name, values in precision.rises(snapshot).items()}
    whole = precision.told_whole_rise(snapshot)
    is_looked_into = precision.whole_rise(snapshot) is not None
    return {
        "format": None if form is None else form.name,
        "dense": precision.int8_ratios(snapshot),
        "rise": None if whole is None else finite(whole),
        "layers": [
            {
                "layer": layer,
                "segment": segment.name,
                "precision": "int8" if layer in int8 else "float32",
                "rise": finite(rises[segment.name]) if is_looked_into else None,
            }
            for segment in precision.segments(snapshot)
            for layer in segment.layers
        ],
    }


def measurement_part(row: Measurement) -> dict[str, Any]:
    """A measurement without its raw samples, which stay in the database under its id."""
    return {
        "id": row.id,
        "device": row.device_id,
        "target": row.target_key,
        "runtime_version": row.runtime_version,
        "protocol": row.protocol,
        "kind": row.kind,
        "ratio": row.ratio,
        "ratio_low": row.ratio_low,
        "ratio_high": row.ratio_high,
        "latency_ms": row.latency_ms,
        "reference_ms": row.reference_ms,
        "verdict": row.verdict,
        "conditions": row.conditions,
    }
