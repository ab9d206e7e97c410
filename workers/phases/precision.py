"""Precision: whether the job's device has int8, in which format, and which layers may use it.

The first measurements after the dense model are the dense model with all layers in int8, in each
format that the runtime announces. The fastest is the job's format; one that the runtime runs
without kernels of its own is slower, and loses by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.runtimes import FLOAT32, int8_purpose
from latency_probes.messages import Settings, Target
from search.explorer.segments import Segment
from search.plan import Plan
from search.quantization import FORMATS, Format
from search.sensitivity import RATIOS, precision_plan, segment_rise
from workers.answers import SEGMENTS
from workers.context import Context
from workers.decision import Decision, NewRequest, NewTask
from workers.library import Library
from workers.phases.demands import tightest
from workers.phases.facts import prepared_result, sensitivity_key
from workers.results import Segments
from workers.snapshot import Snapshot

ALL, WITHOUT = "all in int8", "all in int8 but "


def purpose(snapshot: Snapshot, form: str) -> str:
    """The request for the dense model with all segments in int8, in the job's runtime."""
    if snapshot.chooses_runtime:
        return int8_purpose(snapshot.target.runtime, form)
    return f"int8:{form}"


def announced(snapshot: Snapshot) -> tuple[Format, ...]:
    """The formats that the job's runtime computes exactly on all of its devices, as far as they
    are known here; none where the job asks for float alone."""
    if snapshot.spec.search.precision == "float32" or snapshot.device is None:
        return ()
    asked = tuple(
        form for form in FORMATS.values() if purpose(snapshot, form.name) in snapshot.requests
    )
    if asked:
        return asked  # whatever the device announces later
    runtime = snapshot.target.runtime
    told = formats_of(snapshot.device.capabilities, runtime)
    if snapshot.chooses_runtime:
        told = (snapshot.answers.runtimes or {}).get(runtime, ())
    others = [formats_of((each and each.capabilities) or {}, runtime) for each in snapshot.further]
    return tuple(FORMATS[name] for name in told if all(name in theirs for theirs in others))


def formats_of(capabilities: Mapping[str, Any] | None, runtime: str) -> tuple[str, ...]:
    """The formats that a runtime announced on a device, as far as they are known here."""
    runtimes: Mapping[str, Any] = (capabilities or {}).get("runtimes") or {}
    told = runtimes.get(runtime) or {}
    return tuple(name for name in told.get("formats") or () if name in FORMATS)


def segments(snapshot: Snapshot) -> tuple[Segment, ...]:
    """The layers that may be in int8; none before the format is known, or without one."""
    return _found(snapshot) if format_of(snapshot) is not None else ()


def format_of(snapshot: Snapshot) -> Format | None:
    """The job's format: that in which all of the dense model is fastest; None before it is known,
    and where there is none."""
    ratios = int8_ratios(snapshot) if is_settled(snapshot) else {}
    name = min(ratios, key=lambda form: (ratios[form], form), default=None)
    return None if name is None else FORMATS[name]


def int8_ratios(snapshot: Snapshot) -> dict[str, float]:
    """Format -> measured ratio of the dense model with all segments in int8."""
    rows = {
        form.name: snapshot.measurement(purpose(snapshot, form.name))
        for form in announced(snapshot)
    }
    return {
        name: row.ratio for name, row in rows.items() if row is not None and row.ratio is not None
    }


def may_be_answer(snapshot: Snapshot) -> bool:
    """Whether the dense model in int8 may meet the budget of the job, as far as is known."""
    if snapshot.spec.search.precision == "float32":
        return False
    if snapshot.device is None or snapshot.dense is None or not is_settled(snapshot):
        return True
    return any(ratio <= tightest(snapshot) for ratio in int8_ratios(snapshot).values())


def is_settled(snapshot: Snapshot) -> bool:
    """Whether everything that may be known of int8 is known."""
    forms = announced(snapshot)
    if not forms:
        return True
    if snapshot.result(SEGMENTS) is None:
        return False
    return not _found(snapshot) or all(
        snapshot.ended(purpose(snapshot, form.name)) for form in forms
    )


def questions(
    context: Context, library: Library, snapshot: Snapshot
) -> tuple[tuple[NewTask, ...], tuple[NewRequest, ...]]:
    """What is to be asked next: the segments, then the formats, then what int8 costs in each."""
    forms = announced(snapshot)
    if not forms:
        return (), ()
    if snapshot.result(SEGMENTS) is None:
        return (NewTask(SEGMENTS, SEGMENTS),), ()
    if not is_settled(snapshot):
        requests = (
            int8_request(library, snapshot, wanted, form)
            for form in forms
            if not snapshot.ended(wanted := purpose(snapshot, form.name))
        )
        return (), tuple(requests)
    return rise_tasks(snapshot), ()


def rise_tasks(snapshot: Snapshot) -> tuple[NewTask, ...]:
    """What all segments in int8 do to the loss; then, unless that is nothing, each alone, and all
    but each. None without a format."""
    form = format_of(snapshot)
    if form is None:
        return ()
    found = _found(snapshot)
    every = [layer for segment in found for layer in segment.layers]

    def task(key: str, layers: list[str]) -> NewTask:
        payload = {"group": key, "layers": layers, "format": form.name}
        return NewTask("sensitivity", sensitivity_key(key, 1.0), payload)

    whole = task(ALL, every)
    if snapshot.result(whole.key) is None or whole_rise(snapshot) is None:
        return (whole,)
    alone = (task(segment.name, list(segment.layers)) for segment in found)
    without = (
        task(WITHOUT + segment.name, [name for name in every if name not in segment.layers])
        for segment in found
    )
    return (whole, *alone, *without)


def told_whole_rise(snapshot: Snapshot) -> float | None:
    """The loss rise with all segments in int8, None before it is known."""
    result = snapshot.result(sensitivity_key(ALL, 1.0))
    return None if result is None else _rise(result)


def whole_rise(snapshot: Snapshot) -> float | None:
    """The same; None also where it is within the standard error of the loss, so that no segment
    is asked for its part."""
    result, rise = snapshot.result(sensitivity_key(ALL, 1.0)), told_whole_rise(snapshot)
    if result is None or rise is None:
        return None
    return None if rise <= (result.get("standard_error") or 0.0) else rise


def early_task(snapshot: Snapshot) -> tuple[NewTask, ...]:
    """What int8 needs first, before it is known whether the device has any: so it stands before
    the many tasks of the sensitivities, and formats and stairs are measured beside those."""
    is_float = snapshot.spec.search.precision == "float32"
    if is_float or (snapshot.device is not None and not announced(snapshot)):
        return ()
    return (NewTask(SEGMENTS, SEGMENTS),)


def rises(snapshot: Snapshot) -> dict[str, tuple[float, ...]]:
    """Segment -> the loss rise of int8 at each of the ratios of sensitivities."""
    found, whole = {}, whole_rise(snapshot)
    for segment in segments(snapshot):
        rise = 0.0
        if whole is not None:
            alone, without = (
                _rise(snapshot.result(sensitivity_key(key, 1.0)))
                for key in (segment.name, WITHOUT + segment.name)
            )
            rise = segment_rise(alone, whole, without)
        found[segment.name] = tuple(ratio * rise for ratio in RATIOS)
    return found


def _rise(result: Mapping[str, Any] | None) -> float:
    rise = (result or {}).get("rise")
    return float("inf") if rise is None else float(rise)


def refusal(snapshot: Snapshot) -> Decision | None:
    """The end of a job that asks for int8 where there is none."""
    if snapshot.spec.search.precision != "int8" or snapshot.device is None:
        return None
    if snapshot.chooses_runtime:
        return _none_in_int8(snapshot, snapshot.device.name)
    runtime, device = snapshot.spec.target.runtime, snapshot.device.name
    if not announced(snapshot):
        return Decision.fail(
            "The runtime has no int8",
            f"search.precision is int8, but {runtime} on {device} announces no format of it; "
            "choose auto or float32, or another device or runtime",
        )
    if is_settled(snapshot) and format_of(snapshot) is None:
        problem = Segments.model_validate(snapshot.result(SEGMENTS)).problem
        names = ", ".join(form.name for form in announced(snapshot))
        return Decision.fail(
            "The model does not run in int8",
            f"search.precision is int8, but {problem or f'{runtime} failed in each of {names}'}; "
            "choose auto or float32",
        )
    return None


def _none_in_int8(snapshot: Snapshot, device: str) -> Decision | None:
    """The same where the job chooses its runtime: all have been asked."""
    answers = [each for each in snapshot.answers.all() if each.format != FLOAT32]
    if any(each.latency_ms is not None for each in answers):
        return None
    told = [f"{each.runtime} in {each.format}: {each.error}" for each in answers]
    told = told or [f"{runtime} has none" for runtime in snapshot.answers.runtimes or ()]
    if snapshot.answers.layers is False:
        told = [Segments.model_validate(snapshot.result(SEGMENTS)).problem]
    return Decision.fail(
        "No runtime has int8",
        f"search.precision is int8, but no runtime of {device} runs the model so "
        f"({'; '.join(told)}); choose auto or float32, or another device",
    )


def _found(snapshot: Snapshot) -> tuple[Segment, ...]:
    found = Segments.model_validate(snapshot.result(SEGMENTS))
    return tuple(Segment(each.name, each.layers, dict(each.shares)) for each in found.segments)


def _int8_plan(library: Library, snapshot: Snapshot) -> Plan:
    layers = [layer for segment in _found(snapshot) for layer in segment.layers]
    return precision_plan(library.job_graph(snapshot), layers)


def int8_request(
    library: Library,
    snapshot: Snapshot,
    purpose: str,
    form: Format,
    target: Target | None = None,
) -> NewRequest:
    """The dense model with all segments in int8, against the dense model in float."""
    blob = library.skeleton(
        snapshot.model,
        _int8_plan(library, snapshot),
        batch_size=snapshot.spec.target.batch_size,
        form=form,
    )
    settings = Settings.screening(seed=snapshot.spec.search.seed)
    reference = prepared_result(snapshot).dense_skeleton
    return NewRequest(purpose, blob, reference, settings, target=target)
