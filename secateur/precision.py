"""In which format this machine runs layers in int8, and what the dense network takes in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from latency_probes.local import LocalProbe, Measured
from latency_probes.messages import MeasureError, Target
from latency_probes.runtimes import registry
from latency_probes.spawn import describe_device
from search.constraints import Constraints
from search.errors import ConfigError, SearchError
from search.graph import PruningGraph
from search.plan import Plan
from search.quantization import FORMATS, Format, precision_segments
from search.sensitivity import precision_plan
from search.skeleton import operators, skeleton

PRECISIONS = ("auto", "float32", "int8")


@dataclass(frozen=True)
class Int8:
    """What is known of int8 here.

    Attributes:
        form: the fastest format; None where layers stay float.
        ratios: format -> ratio of the dense network with all layers in int8 that may be.
        layers: those.
        errors: format -> why there is no ratio.
    """

    form: Format | None
    ratios: Mapping[str, float]
    layers: tuple[str, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)


def int8_here(
    graph: PruningGraph,
    constraints: Constraints,
    target: Target,
    probe: LocalProbe,
    precision: str,
    show: Callable[[str], None],
) -> Int8:
    """Measures the dense network in every format that the runtime computes exactly.

    Args:
        graph: of the network.
        constraints: layers that are left alone stay float.
        target: what is measured.
        probe: against the dense skeleton.
        precision: one of `PRECISIONS`.
        show: gets the name of each format.

    Raises:
        ConfigError: `int8` is asked for, and the runtime has no format or the network no layer.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision must be one of {', '.join(PRECISIONS)}, but got {precision!r}"
        )
    if precision == "float32":
        return Int8(None, {})
    forms = _announced(target)
    plan = _all_int8(graph, constraints, target.batch_size) if forms else graph.dense_plan()
    ratios, errors = {}, {}
    for form in forms if plan.precision else ():
        show(form.name)
        made = skeleton(graph, plan, batch_size=target.batch_size, form=form)
        (found,) = probe([made])
        if isinstance(found, Measured):
            ratios[form.name] = found.ratio
        else:
            errors[form.name] = f"{found.kind}: {found.message}"
    if precision == "int8" and not ratios:
        known = ", ".join(form.name for form in forms) or "none"
        raise ConfigError(
            f"precision int8 needs a runtime and layers for it, but {target.runtime} has the "
            f"formats {known} here, and {len(plan.precision)} layers may be in int8"
        )
    fastest = min(ratios, key=lambda name: (ratios[name], name), default=None)
    best = None if fastest is None else FORMATS[fastest]
    return Int8(best, ratios, tuple(plan.precision), errors)


def _announced(target: Target) -> tuple[Format, ...]:
    found = describe_device(registry.offered((target.runtime,)), ())
    if isinstance(found, MeasureError) or target.runtime not in found.runtimes:
        return ()
    return tuple(FORMATS[n] for n in found.runtimes[target.runtime].formats if n in FORMATS)


def _all_int8(graph: PruningGraph, constraints: Constraints, batch_size: int) -> Plan:
    """The dense plan with all layers in int8 that may be; none where the network cannot round."""
    try:
        segments = precision_segments(graph, operators(graph, batch_size=batch_size), constraints)
    except SearchError:
        return graph.dense_plan()
    return precision_plan(graph, [layer for each in segments for layer in each.layers])
