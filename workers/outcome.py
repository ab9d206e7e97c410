"""The result of a job in one flat document: what clients print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

from jobs.footprint import Footprint
from jobs.tables import Measurement
from workers.phases import precision
from workers.phases.chance import lost
from workers.phases.demands import demands, tightest
from workers.phases.facts import (
    FINISH,
    PACKAGE_DENSE,
    Verified,
    beta,
    dense_measurement,
    dense_ms,
    levels,
    prepared_result,
)
from workers.report.details import ratio_while_disturbed
from workers.report.ways import ANSWER
from workers.results import Finished, Packaged
from workers.snapshot import Snapshot

SIZES = ("dense_parameters", "dense_memory_mb", "parameters", "memory_mb")


def result_document(snapshot: Snapshot, best: Verified | None) -> dict[str, Any]:
    """What the job achieved; `best` None is the dense model itself, unpruned."""
    found = snapshot.result(FINISH)
    if found is None:
        raise LookupError(f"{snapshot.job.id} must be finished, but is not")
    finished = Finished.model_validate(found)
    return outcome_of(snapshot, finished, best)


def outcome_of(snapshot: Snapshot, finished: Finished, best: Verified | None) -> dict[str, Any]:
    """The same, with the accuracies as they are given."""
    told = latency_part(snapshot, best, finished.duty)
    return told | finished.model_dump(exclude={"duty"})


def latency_part(
    snapshot: Snapshot, best: Verified | None, duty: Mapping[str, float]
) -> dict[str, Any]:
    """Everything but the accuracies on the test images."""
    measured = dense_measurement(snapshot)
    row = measured if best is None else best.latency
    dense = Packaged.model_validate(snapshot.result(PACKAGE_DENSE)).onnx
    onnx = dense if best is None else best.packaged.onnx
    whole = _dense_digest(snapshot)
    budget = beta(snapshot)
    count = (snapshot.job.progress or {}).get("measured", 0)
    return {
        "unpruned": best is None,
        "budget_ratio": budget,
        "budget_ms": budget * dense_ms(snapshot),
        "ratio": row.ratio,
        "ratio_low": row.ratio_low,
        "ratio_high": row.ratio_high,
        "disturbed_ratio": disturbed_ratio(row),
        "warning": warning(snapshot, best),
        "within_budget": best is None or best.rank(tightest(snapshot))[0] == 0,
        "further_devices": further_part(snapshot, best),
        "dense_latency_ms": row.reference_ms,
        "latency_ms": row.latency_ms,
        "verdict": row.verdict,
        "dense_bytes": dense.size,
        "bytes": onnx.size,
        **sizes_part(snapshot, best),
        "plan_digest": whole if best is None else best.chosen.to_plan().digest,
        "candidate": whole if best is None else best.chosen.digest,
        "device": row.device_id if snapshot.device is None else snapshot.device.name,
        "device_id": row.device_id,
        "runtime": row.target_key.partition("/")[0],
        "runtime_version": row.runtime_version,
        "runtimes": runtimes_part(snapshot),
        "target": row.target_key,
        "measured": count,
        "measurements": {
            "measured": count,
            "reused": len(snapshot.reused),
            "from_jobs": sorted(set(snapshot.reused.values())),
        },
        "devices": devices_part(snapshot, duty),
        "levels": 0 if best is None else levels(snapshot),
        "int8_layers": 0 if best is None else len(best.chosen.to_plan().precision),
        "int8_format": None if (form := precision.format_of(snapshot)) is None else form.name,
    }


def warning(snapshot: Snapshot, best: Verified | None) -> str | None:
    """What nobody should miss of the result."""
    if best is None:
        return None
    told = [lost(prepared_result(snapshot), best.validation_accuracy)]
    if best.finetuned.untrained:
        told.append(not_trained(best.finetuned.steps, snapshot.spec.finetune.steps))
    if best.chosen.is_answer:
        told.append(ANSWER)
    return "; ".join(filter(None, told)) or None


def not_trained(steps: int, asked: int) -> str:
    """That training brought nothing, and what to change.

    Args:
        steps: That were run, of those `asked` for.
    """
    ran = f"{steps} step{'' if steps == 1 else 's'} of fine-tuning"
    worse = "made it worse on the validation images, so that the result is not fine-tuned"
    if steps < asked:
        return f"{ran}, of {asked}, {worse}; give it more time"
    return f"{ran} {worse}; lower finetune.learning_rate"


def runtimes_part(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The simple answers that decided on the runtime, see `jobs.runtimes.Answer`; none where the
    job named it."""
    if not snapshot.chooses_runtime:
        return []
    return [asdict(each) for each in snapshot.answers.all()]


def sizes_part(snapshot: Snapshot, best: Verified | None) -> dict[str, Any]:
    """Parameters, and what one call holds at once, as the constraints limit them; None where the
    report of the model does not tell."""
    footprint = Footprint.of(snapshot.model.report)
    if footprint is None:
        return dict.fromkeys(SIZES)
    dense = footprint.dense_widths
    left = {} if best is None else best.chosen.to_plan().widths
    names = [group["name"] for group in footprint.groups]
    kept = [left.get(name, width) for name, width in zip(names, dense, strict=True)]
    batch_size = snapshot.spec.target.batch_size
    numbers = [
        (footprint.count(widths), footprint.memory_mb(widths, batch_size))
        for widths in (dense, kept)
    ]
    return dict(zip(SIZES, chain.from_iterable(numbers), strict=True))


def disturbed_ratio(row: Measurement) -> float | None:
    """The ratio while the device was disturbed, where that is not what the interval says too."""
    return ratio_while_disturbed(row.conditions, row.ratio_low, row.ratio_high)


def further_part(snapshot: Snapshot, best: Verified | None) -> list[dict[str, Any]]:
    """The result on each further device whose budget it must meet too."""
    asked = demands(snapshot)[1:]
    rows = [each.dense for each in asked] if best is None else best.further
    return [
        {
            "device": row.device_id if device is None else device.name,
            "device_id": row.device_id,
            "budget_ratio": there.beta,
            "dense_latency_ms": row.reference_ms,
            "latency_ms": row.latency_ms,
            "ratio": row.ratio,
            "ratio_low": row.ratio_low,
            "ratio_high": row.ratio_high,
            "verdict": row.verdict,
        }
        for there, row, device in zip(asked, rows, snapshot.further, strict=True)
    ]


def devices_part(snapshot: Snapshot, duty: Mapping[str, float]) -> list[dict[str, Any]]:
    """Who measured how much for the job, the first device first, and in what part of the time
    that candidates waited; what became of those that were set aside, or that drifted with nobody
    to take over."""
    first = dense_measurement(snapshot).device_id
    counts = Counter(each.device_id for each in snapshot.found.values())
    names = dict(snapshot.pool.names)
    names |= {each.id: each.name for each in (*snapshot.further, snapshot.device) if each}
    pool = snapshot.pool
    told = {device: f"drifted, nobody took over: {why}" for device, why in pool.drifted.items()}
    told |= {device: f"set aside: {why}" for device, why in pool.aside.items()}
    return [
        {
            "id": device,
            "name": names.get(device),
            "measured": count,
            "duty": duty.get(device),
            "note": told.get(device),
        }
        for device, count in sorted(counts.items(), key=lambda each: (each[0] != first, each[0]))
    ]


def _dense_digest(snapshot: Snapshot) -> str:
    return prepared_result(snapshot).dense_digest
