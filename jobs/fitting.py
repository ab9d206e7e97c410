"""Refuses constraints that exclude each other, by the footprint of a model, before a job exists.

`search.constraints` refuses the same once more by the analysis itself: for a model that is still
being checked, or whose report an earlier version wrote. It knows no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, gcd
from typing import Any

from jobs.amounts import BYTES, megabytes_of
from jobs.errors import FieldProblem, SpecError
from jobs.footprint import Footprint, matches
from jobs.near import near
from jobs.spec import ConstraintsSpec, JobSpec

MOST_NAMES = 5


def check_constraints(spec: JobSpec, report: Mapping[str, Any] | None) -> None:
    """Refuses what no plan of the model can keep to.

    Args:
        spec: of the job.
        report: of the model; None while it is being checked, when nothing is refused.

    Raises:
        SpecError: with the names or the numbers that would do.
    """
    footprint = Footprint.of(report)
    if footprint is None or spec.constraints == ConstraintsSpec():
        return
    problems = list(_unknown_names(footprint, spec.constraints)) or list(_limits(footprint, spec))
    if problems:
        raise SpecError(problems)


def _unknown_names(footprint: Footprint, given: ConstraintsSpec) -> Iterator[FieldProblem]:
    for pattern in given.exclude:
        if not any(matches(name, [pattern]) for name in footprint.modules):
            hint = near(pattern, footprint.modules) or (
                f"; it has {', '.join(footprint.modules[:MOST_NAMES])} and others"
            )
            yield _problem(
                "exclude",
                f"must name layers of the model, but got {pattern!r}, which names none{hint}",
            )


def _limits(footprint: Footprint, spec: JobSpec) -> Iterator[FieldProblem]:
    given = spec.constraints
    searched = [
        number
        for number, group in enumerate(footprint.groups)
        if group["status"] != "frozen" and (spec.search.blocks or group["kind"] != "block")
    ]
    left = [number for number in searched if not _is_left_alone(footprint, given, number)]
    if searched and not left:
        yield _problem("exclude", _nothing_left(footprint, given, len(searched)))
        return
    widths = footprint.dense_widths
    for number in left:
        widths[number] = _narrowest(footprint.groups[number], given.multiple)
    fewest, most = footprint.count(widths), given.most_parameters
    beside = _beside(given)
    if most is not None and fewest > most:
        is_size = given.max_size_mb is not None
        field = "max_size_mb" if is_size else "max_parameters"
        least = megabytes_of(BYTES * fewest) if is_size else f"{fewest}"
        got = f"{given.max_size_mb:g}" if is_size else f"{most}"
        yield _problem(
            field,
            f"must be >= {least}, what the smallest pruned model has{beside}, but got {got}",
        )
    if given.max_memory_mb is not None:
        yield from _memory(footprint, spec, widths, beside)


def _memory(
    footprint: Footprint, spec: JobSpec, widths: list[int], beside: str
) -> Iterator[FieldProblem]:
    most, batch_size = spec.constraints.max_memory_mb or 0.0, spec.target.batch_size
    if footprint.moments is None:
        yield _problem(
            "max_memory_mb",
            "must not be given for a model that is traced in parts, because what lies between "
            "them is not known",
        )
        return
    least = footprint.memory_bytes(widths, batch_size)
    if least > 1e6 * most:
        yield _problem(
            "max_memory_mb",
            f"must be >= {megabytes_of(least)}, what one call of the smallest pruned model "
            f"holds at target.batch_size {batch_size}{beside}, but got {most:g}",
        )


def _is_left_alone(footprint: Footprint, given: ConstraintsSpec, number: int) -> bool:
    tensors = footprint.tensors_of(number)
    frozen = () if given.prune_frozen else footprint.frozen
    return any(
        matches(tensor.rpartition(".")[0], given.exclude) or tensor in frozen for tensor in tensors
    )


def _narrowest(group: Mapping[str, Any], multiple: int) -> int:
    """As `search.widths.narrowest`."""
    step = multiple // gcd(multiple, int(group["channels"]))
    return int(min(group["width"], ceil(group["min_width"] / step) * step))


def _nothing_left(footprint: Footprint, given: ConstraintsSpec, count: int) -> str:
    frozen = "" if given.prune_frozen or not footprint.frozen else " and frozen layers"
    return (
        f"must leave something to prune, but {', '.join(given.exclude) or 'nothing'}{frozen} "
        f"leave none of {count} groups: name fewer layers"
        + (", or give prune_frozen" if frozen else "")
    )


def _beside(given: ConstraintsSpec) -> str:
    """The constraints that raise what the smallest model takes, in words."""
    words = [f"exclude {', '.join(given.exclude)}"] if given.exclude else []
    words += [f"multiple {given.multiple}"] if given.multiple > 1 else []
    return f" with {' and '.join(words)}" if words else ""


def _problem(field: str, message: str) -> FieldProblem:
    name = f"constraints.{field}"
    return FieldProblem(name, f"{name} {message}")
