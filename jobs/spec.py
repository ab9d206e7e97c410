"""What a user may ask for: models, data sets and jobs, as documents. It knows no table and builds
nothing.

`jobs.validation.validate` reads them and words their errors.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jobs.amounts import (
    budget_of,
    milliseconds_of,
    parameters_in,
    ratio_of,
    seconds_of,
    share_of,
)
from jobs.data_roots import DataRoots
from jobs.errors import FieldProblem, SpecError
from jobs.selectors import Selector
from jobs.settings import Settings
from latency_probes.messages import Target

ONNX = "onnx"
MOST_RATIO = 2.0
SCHEMES = ("python", "torchvision", "timm", "transformers")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_PYTHON = re.compile(r"python:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_ZOO = re.compile(rf"({'|'.join(SCHEMES[1:])}):[A-Za-z0-9][\w./-]*")


def _is_text(path: str) -> bool:
    """Whether it has no half of a surrogate pair, which no file system and no database takes."""
    return path.encode(errors="replace").decode() == path


def _not_empty(entries: tuple[float, ...]) -> tuple[float, ...]:
    if not entries:
        raise ValueError("must have at least one entry, but got none")
    return entries


Name = Annotated[str, Field(pattern=_NAME)]
Size = Annotated[int, Field(ge=1, le=1_000_000)]
Shape = Annotated[tuple[Size, ...], Field(max_length=5), AfterValidator(_not_empty)]
PerChannel = Annotated[tuple[float, ...], AfterValidator(_not_empty)]
PositivePerChannel = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(_not_empty)
]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _finite(kwargs: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        json.dumps(kwargs, allow_nan=False)
    except ValueError:
        raise ValueError("must hold finite numbers only, but does not") from None
    return kwargs


Kwargs = Annotated[dict[str, JsonValue], AfterValidator(_finite)]


class ModelSpec(_Spec):
    """A trained network: how to build it. Its weights come beside this document, as safetensors.

    Attributes:
        architecture: `python:module:function`, `torchvision:name`, `timm:name`,
            `transformers:name`, or `onnx`: then an ONNX file comes instead of weights.
        kwargs: passed to the function that builds it.
        input_shape: of one example, without the batch: `[1, 28, 28]`. An ONNX file says it
            itself, unless it leaves sizes open.
    """

    name: Name
    architecture: str
    kwargs: Kwargs = {}
    input_shape: Shape | None = Field(default=None, validate_default=True)

    @field_validator("architecture")
    @classmethod
    def _known_scheme(cls, architecture: str) -> str:
        known = _PYTHON.fullmatch(architecture) or _ZOO.fullmatch(architecture)
        if not known and architecture != ONNX:
            raise ValueError(
                "must be python:module:function, torchvision:name, timm:name, "
                f"transformers:name or onnx, but got {architecture!r}"
            )
        return architecture

    @field_validator("kwargs")
    @classmethod
    def _none_for_onnx(cls, kwargs: Kwargs, info: ValidationInfo) -> Kwargs:
        if kwargs and info.data.get("architecture") == ONNX:
            raise ValueError("must not be given with architecture onnx")
        return kwargs

    @field_validator("input_shape")
    @classmethod
    def _given_unless_onnx(cls, shape: Shape | None, info: ValidationInfo) -> Shape | None:
        if shape is None and info.data.get("architecture") != ONNX:
            raise ValueError("must be given, but got nothing")
        return shape

    @property
    def is_onnx(self) -> bool:
        """Whether an ONNX file comes beside this document."""
        return self.architecture == ONNX


class DatasetSpec(_Spec):
    """Images and labels for training.

    Attributes:
        path: a file or folder on the server; without it, an archive is uploaded beside this
            document.
        function: `python:module:function`, for the format `python` alone.
        num_classes: found in the labels where it is not given.
        mean: subtracted per channel, on pixels in [0, 1].
        std: divided by, per channel.
    """

    name: Name
    format: Literal["idx", "npz", "image_folder", "python"]
    path: str | None = None
    function: str | None = None
    kwargs: Kwargs = {}
    num_classes: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    mean: PerChannel | None = None
    std: PositivePerChannel | None = None

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        if path is not None and ("\0" in path or not _is_text(path)):
            raise ValueError("must be the path of a file or folder, but holds other characters")
        if path is not None and not PurePosixPath(path).is_absolute():
            raise ValueError(f"must be absolute, but got {path!r}")
        return path

    @field_validator("function")
    @classmethod
    def _callable_name(cls, function: str | None) -> str | None:
        if function is not None and not _PYTHON.fullmatch(function):
            raise ValueError(f"must be python:module:function, but got {function!r}")
        return function

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        is_python = self.format == "python"
        if is_python and (self.function is None or self.path is not None):
            raise ValueError("of format python must give function and no path, but does not")
        if not is_python and (self.function is not None or self.kwargs):
            raise ValueError(
                f"must give function and kwargs only with format python, but got {self.format}"
            )
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(
                "must have as many entries in mean as in std, "
                f"but got {len(self.mean)} and {len(self.std)}"
            )
        return self

    @property
    def needs_archive(self) -> bool:
        """Whether an archive must come beside this document."""
        return self.format != "python" and self.path is None


def _no_percentage(ratio: float) -> float:
    """Refuses 60 where 0.6 is meant. A budget above the dense latency asks for nothing, so that
    nothing is lost by a low limit."""
    if ratio > MOST_RATIO:
        raise ValueError(
            f"must be a part of the dense latency, 0.6 for 60 %, but got {ratio:g}: "
            f"{ratio:g} % is {ratio / 100:g}, or write {ratio:g}%"
        )
    return ratio


def _ratio(given: Any) -> Any:
    return ratio_of(given) if isinstance(given, str) else given


def _milliseconds(given: Any) -> Any:
    return milliseconds_of(given) if isinstance(given, str) else given


class BudgetSpec(_Spec):
    """The latency that the result must not exceed: a part of the dense model's, or milliseconds.

    Texts are read as people write them: `"budget": "60%"` or `"20ms"`, `{"ratio": "0.6x"}`,
    `{"latency_ms": "0.02s"}`.
    """

    ratio: (
        Annotated[float, Field(gt=0), BeforeValidator(_ratio), AfterValidator(_no_percentage)]
        | None
    ) = None
    latency_ms: Annotated[float, Field(gt=0), BeforeValidator(_milliseconds)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _text(cls, given: Any) -> Any:
        return dict([budget_of(given)]) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("ratio", "latency_ms") if getattr(self, name) is not None]
        if len(given) != 1:
            got = "both" if given else "neither"
            raise ValueError(f"must give one of ratio and latency_ms, but got {got}")
        return self


def _selector(device: str) -> str:
    selector = Selector.parse(device)
    if selector.kind == "pool":
        raise ValueError(f"must not be a pool: those form by themselves, but got {device!r}")
    return str(selector)


ChosenDevice = Annotated[str, AfterValidator(_selector)]


class FurtherSpec(BudgetSpec):
    """One more budget, of another device where one is named; as text `40%` or `40%@id:dev_1`.

    Attributes:
        device: as in `target`; None is that of the job.
    """

    device: ChosenDevice | None = None

    @model_validator(mode="before")
    @classmethod
    def _text(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        budget, at, device = given.partition("@")
        return dict([budget_of(budget)]) | ({"device": device} if at else {})


class FurtherDeviceSpec(FurtherSpec):
    """A budget on a device beside the job's own; as text `60%@label:kind=pi`.

    Attributes:
        device: as in `target`.
    """

    device: ChosenDevice


class TargetSpec(Target):
    """Which device, and how it runs the model. With runtime `auto` the dense model is measured in
    every runtime of the device, in float32 and in int8, and the fastest one is the job's.

    Attributes:
        device: `any`, `id:<device id>`, `label:<name>=<value>` or `where:<expression>`.
    """

    device: ChosenDevice = "any"

    @property
    def how(self) -> Target:
        """The target without the choice of a device, as the device is told."""
        return Target.model_validate(self.model_dump(exclude={"device"}))


class SearchSpec(_Spec):
    """The search. `criterion` tells which units go first: `l1`, `l2`, `bn_scale`, `redundancy`,
    `taylor`, `singe` or `random`. `tolerance` bounds the loss rise that a layer floor allows;
    whole residual blocks may be removed too, unless `blocks` is false. With precision `auto`,
    layers are in int8 where the device has it and that is faster; `int8` refuses a device that has
    not. `entwined`: steps of fine-tuning between two levels, of what is kept, a part of those of
    the job. `staircase_points`: most widths of each group that are measured alone; `refinements`:
    most rounds at the budget after the levels, as long as each brings something better; by default
    2, and with a time limit as many as it leaves time for."""

    beam_width: Annotated[int, Field(ge=1, le=64)] = 4
    children: Annotated[int, Field(ge=1, le=256)] = 6
    levels: Annotated[int, Field(ge=1, le=32)] = 5
    staircase_points: Annotated[int, Field(ge=1, le=16)] = 4
    refinements: Annotated[int, Field(ge=0, le=64)] | None = None
    criterion: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")] = "l1"
    tolerance: Annotated[float, Field(gt=0)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    calibration_images: Annotated[int, Field(ge=16, le=65_536)] = 512
    finalists: Annotated[int, Field(ge=1, le=16)] = 2
    blocks: bool = True
    entwined: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "float32", "int8"] = "auto"


def _share(given: Any) -> Any:
    return share_of(given) if isinstance(given, str) else given


def _seconds(given: Any) -> Any:
    return seconds_of(given) if isinstance(given, str) else given


Pattern = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(_share)]
Seconds = Annotated[float, Field(gt=0), BeforeValidator(_seconds)]
Drop = Annotated[float, Field(ge=0, le=1), BeforeValidator(_share)]


class ConstraintsSpec(_Spec):
    """What the result must keep to beside the latency.

    Attributes:
        exclude: layers that keep all of their channels: names of modules or patterns
            (`blocks.*.attn`); a module that holds others names all of them.
        prune_frozen: prune layers that the model's own code freezes too.
        multiple: channels that stay are a multiple of this, unless all do.
        max_parameters: the most that the result may have.
        max_size_mb: the same by the size of its weights in float32, in 10⁶ bytes.
        max_memory_mb: the most that one call may hold at once, in 10⁶ bytes: weights, and the
            values that are alive together at the target's batch size, in float32. It is computed;
            what a runtime needs for itself comes on top.
        min_accuracy: of the result on the validation images, as a share: 0.9 or `90%`.
        max_accuracy_drop: the most of that accuracy that may be lost against the dense model.
        time_limit_s: how long search and fine-tuning may take together: 1800 or `30m`. Then the
            job ends with the best so far. Waiting, analysis and the last measurement come on top.
    """

    exclude: Annotated[tuple[Pattern, ...], Field(max_length=64)] = ()
    prune_frozen: bool = False
    multiple: Annotated[int, Field(ge=1, le=1024)] = 1
    max_parameters: Annotated[int, Field(ge=1)] | None = None
    max_size_mb: Annotated[float, Field(gt=0)] | None = None
    max_memory_mb: Annotated[float, Field(gt=0)] | None = None
    min_accuracy: Share | None = None
    max_accuracy_drop: Drop | None = None
    time_limit_s: Seconds | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for pair in (("max_parameters", "max_size_mb"), ("min_accuracy", "max_accuracy_drop")):
            if all(getattr(self, name) is not None for name in pair):
                raise ValueError(f"must give one of {pair[0]} and {pair[1]}, but got both")
        return self

    @property
    def most_parameters(self) -> int | None:
        """`max_parameters`, or as many as `max_size_mb` holds."""
        if self.max_size_mb is not None:
            return parameters_in(self.max_size_mb)
        return self.max_parameters

    def least_accuracy(self, dense: float) -> float:
        """The accuracy that the result must have on the validation images.

        Args:
            dense: the accuracy of the dense model.
        """
        if self.max_accuracy_drop is not None:
            return dense - self.max_accuracy_drop
        return 0.0 if self.min_accuracy is None else self.min_accuracy


class FinetuneSpec(_Spec):
    """Fine-tuning of the finalists by distillation from the dense model; 0 steps leave it out.

    `flip` mirrors half of the images left to right; `auto` does where the dense model knows its
    images mirrored. `amp` is the precision of training; `auto` is bfloat16 where the worker's CPU
    multiplies it in hardware.
    """

    steps: Annotated[int, Field(ge=0, le=1_000_000)] = 600
    batch_size: Annotated[int, Field(ge=2, le=4096)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    temperature: Annotated[float, Field(gt=0)] = 4.0
    distillation_weight: Annotated[float, Field(ge=0, le=1)] = 0.9
    shift: Annotated[int, Field(ge=0, le=64)] = 2
    flip: bool | Literal["auto"] = "auto"
    amp: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", validation_alias=AliasChoices("amp", "precision")
    )  # `precision` in jobs of before


class JobSpec(_Spec):
    """A pruning job. `model` and `dataset` are names or ids of what was submitted before.

    Attributes:
        further_budgets: each is answered by a job of its own once this one has succeeded or found
            its budget out of reach: like this one, on another device where it names one, but it
            takes over the losses and asks a device for nothing that it has measured.
        further_devices: the one result must meet a budget on each of these too, run as `target`
            says. Every candidate is measured on all of them.
        exports: further formats of the result: `pt2` (torch.export), `openvino` (IR).
    """

    name: Name | None = None
    model: Name
    dataset: Name
    budget: BudgetSpec
    further_budgets: Annotated[tuple[FurtherSpec, ...], Field(max_length=16)] = ()
    further_devices: Annotated[tuple[FurtherDeviceSpec, ...], Field(max_length=8)] = ()
    target: TargetSpec = TargetSpec()
    search: SearchSpec = SearchSpec()
    finetune: FinetuneSpec = FinetuneSpec()
    constraints: ConstraintsSpec = ConstraintsSpec()
    exports: Annotated[tuple[Literal["pt2", "openvino"], ...], Field(max_length=2)] = ()

    @model_validator(mode="after")
    def _steps_left(self) -> Self:
        entwined = self.search.entwined * (self.search.levels - 1)
        if self.search.entwined and entwined >= self.finetune.steps:
            raise ValueError(
                "must have search.entwined times (levels - 1) below finetune.steps, of which they "
                f"are a part, but got {entwined} and {self.finetune.steps}"
            )
        return self


class ResolveSpec(_Spec):
    """Another budget for a job that is there, of another device where one is named, and a name
    for what answers it."""

    budget: BudgetSpec
    device: ChosenDevice | None = None
    name: Name | None = None

    @property
    def further(self) -> FurtherSpec:
        """What is asked for, without the name."""
        return FurtherSpec(**self.budget.model_dump(), device=self.device)


def check_allowed(spec: ModelSpec | DatasetSpec, settings: Settings) -> None:
    """Refuses code that the operator has not allowed in `SECATEUR_ALLOW`.

    Raises:
        SpecError: the spec names a `python:` function that is not in the list.
    """
    field = "architecture" if isinstance(spec, ModelSpec) else "function"
    name = spec.architecture if isinstance(spec, ModelSpec) else spec.function
    if name is None or not name.startswith("python:") or name in settings.allow:
        return
    allowed = ", ".join(sorted(settings.allow)) or "nothing so far"
    message = f"{field} must be allowed by SECATEUR_ALLOW ({allowed}), but got {name!r}"
    raise SpecError([FieldProblem(field, message)])


def check_path(spec: DatasetSpec, roots: DataRoots) -> None:
    """Refuses a path outside the data roots, with the same words whether or not it exists.

    Raises:
        SpecError: the path, or what its links lead to, lies elsewhere.
    """
    if spec.path is None or roots.hold(spec.path):
        return
    message = f"path must lie under a data root of this server ({roots}), but got {spec.path!r}"
    raise SpecError([FieldProblem("path", message)])
