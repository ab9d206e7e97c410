"""The options of `prune` and `jobs submit` for what a result keeps to beside latency, named like
the fields of `constraints` in a job."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

Exclude = Annotated[
    list[str] | None,
    typer.Option(
        help="Leave this layer alone: a name, or a pattern such as blocks.*.attn. May be repeated."
    ),
]
PruneFrozen = Annotated[
    bool,
    typer.Option("--prune-frozen", help="Prune layers that the model's own code freezes too."),
]
Blocks = Annotated[
    bool | None,
    typer.Option(
        "--blocks/--no-blocks", help="Remove whole residual blocks too, as by default, or not."
    ),
]
Multiple = Annotated[int | None, typer.Option(help="Channels that stay are a multiple of this.")]
MaxParameters = Annotated[int | None, typer.Option(help="Most parameters that the result has.")]
MaxSizeMb = Annotated[
    float | None,
    typer.Option(
        "--max-size-mb", "--max-size", help="Most megabytes that the weights take in float32."
    ),
]
MaxMemoryMb = Annotated[
    float | None,
    typer.Option(
        "--max-memory-mb",
        "--max-memory",
        help="Most megabytes that one call holds at once: weights and values, computed for the "
        "batch size in float32; the runtime's own come on top.",
    ),
]
MinAccuracy = Annotated[
    str | None, typer.Option(help="Least accuracy on the validation images: 90% or 0.9.")
]
MaxAccuracyDrop = Annotated[
    str | None,
    typer.Option(help="Most of that accuracy that may be lost: 1% or 0.01 is one point."),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time-limit-s",
        "--time-limit",
        help="Most time for search and fine-tuning together, 30m or 1.5h: then the best so far is "
        "the result.",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="auto: layers in int8 where the device has it and that is faster; float32: none; "
        "int8: refused where the device has none."
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Images in a call, as they are measured.")]


def constraints_of(
    *,
    exclude: list[str] | None,
    prune_frozen: bool,
    multiple: int | None,
    max_parameters: int | None,
    max_size_mb: float | None,
    max_memory_mb: float | None,
    min_accuracy: str | None,
    max_accuracy_drop: str | None,
    time_limit_s: str | None,
) -> dict[str, Any]:
    """The fields that were given; a list or flag that is empty was not."""
    given: Mapping[str, Any] = {
        "exclude": exclude or None,
        "prune_frozen": prune_frozen or None,
        "multiple": multiple,
        "max_parameters": max_parameters,
        "max_size_mb": max_size_mb,
        "max_memory_mb": max_memory_mb,
        "min_accuracy": min_accuracy,
        "max_accuracy_drop": max_accuracy_drop,
        "time_limit_s": time_limit_s,
    }
    return {name: value for name, value in given.items() if value is not None}


def checked(spec: Mapping[str, Any]) -> None:
    """Refuses a job that cannot be read, before anything is started for it.

    Raises:
        typer.BadParameter: With what must be changed.
    """
    from jobs.errors import SpecError
    from jobs.spec import JobSpec
    from jobs.validation import validate

    try:
        validate(JobSpec, {**spec, "model": "model", "dataset": "dataset"})
    except SpecError as error:
        told = "; ".join(each.message for each in error.problems[:5])
        raise typer.BadParameter(told) from error
