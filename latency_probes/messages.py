"""The wire protocol between server and device, as versioned pydantic models with capped sizes.

Every stream entry has one field `m` holding one of these as JSON. Requests go to the device,
`Report`s (a heartbeat, a result, a hello) come back; the stream's key names the sender. Knows no
Redis, no runtime, no timing.

    server --MeasureRequest-->  device          device --Heartbeat, MeasureResult, Hello--> server
    device --Enrolment (HTTP)-> server          server --EnrolmentReply (HTTP)----->   device
"""

import base64
import binascii
import hashlib
import zlib
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from latency_probes.samples import Measurement

VERSION = 1
MAX_MESSAGE_BYTES = 2**20
MAX_INLINE_BYTES = 256 * 1024
MAX_MODEL_BYTES = 2**31

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
Shape = Annotated[
    tuple[Annotated[int, Field(ge=1, le=2**31)], ...], Field(min_length=0, max_length=8)
]
Attempt = Annotated[int, Field(ge=0, lt=2**31)]
Line = Annotated[str, StringConstraints(max_length=200)]
ErrorKind = Literal[
    "timeout", "crashed", "unsupported_op", "out_of_memory", "device_lost", "invalid"
]


class MessageError(ValueError):
    """A message from the other side that is too long, malformed, or not of this protocol."""


class _Part(BaseModel):
    # Errors end in logs, and some messages carry secrets.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class _Message(_Part):
    version: Literal[1] = 1


# The runtime of a target that leaves the choice to measurements. No device is asked for it.
AUTO = "auto"
# What a target means that names no provider; other runtimes have ONNX Runtime's word for a CPU.
_USUAL_PROVIDERS = {"openvino": "CPU", "torch": "eager", AUTO: AUTO}
_CPU = "CPUExecutionProvider"


def usual_provider(runtime: str) -> str:
    """What a runtime runs on where a target names no provider."""
    return _USUAL_PROVIDERS.get(runtime, _CPU)


class Target(_Part):
    """What runs the model on the device. Without a provider, the runtime's usual one; with runtime
    `auto` there is none to give."""

    runtime: Name = "onnxruntime"
    provider: Name = _CPU
    batch_size: int = Field(default=1, ge=1, le=4096)
    threads: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="before")
    @classmethod
    def _with_provider(cls, given: Any) -> Any:
        usual = (
            _USUAL_PROVIDERS.get(str(given.get("runtime"))) if isinstance(given, dict) else None
        )
        return given if usual is None else {"provider": usual, **given}

    @model_validator(mode="after")
    def _auto_alone(self) -> Self:
        if self.runtime == AUTO and self.provider != AUTO:
            raise ValueError(
                "must leave the provider out with runtime auto, where each runtime has its usual "
                f"one, but got {self.provider!r}"
            )
        return self

    def in_runtime(self, runtime: str) -> "Target":
        """The same in another runtime, with that one's usual provider."""
        return Target(runtime=runtime, batch_size=self.batch_size, threads=self.threads)

    @property
    def key(self) -> str:
        """One readable word for caches: equal targets have equal keys."""
        return f"{self.runtime}/{self.provider}/b{self.batch_size}/t{self.threads}"


class Settings(_Part):
    """How long and how carefully to measure. `replicates` is the least number of processes.

    More are run, up to `max_replicates`, while the interval's half-width exceeds `half_width` of
    the ratio. Fewer are, at least 3, where the ratio is clearly above or below `threshold`.

    Attributes:
        timing_s: Per replicate, for the rounds; warm-up comes before.
        overtime: So many times `timing_s` may pass until a busy core or a slow model has given
            enough rounds.
        profile: One more process times the candidate's layers.
        sizes: Input -> its shape without the batch, for models that leave sizes free.
        usual_ms: What a call of the reference takes on the device when nothing disturbs it, where
            that is known before.
    """

    kind: Literal["screening", "strict"] = "screening"
    replicates: int = Field(default=3, ge=2, le=32)
    max_replicates: int = Field(default=5, ge=2, le=32)
    half_width: float = Field(default=0.03, gt=0, le=1)
    threshold: float | None = Field(default=None, gt=0)
    timing_s: float = Field(default=0.12, gt=0, le=60)
    overtime: float = Field(default=1.5, ge=1, le=16)
    time_limit_s: float = Field(default=60.0, gt=0, le=3600)
    memory_limit_mb: int = Field(default=4096, ge=64, le=2**20)
    seed: int = Field(default=0, ge=0, lt=2**63)
    profile: bool = False
    usual_ms: float | None = Field(default=None, gt=0)
    sizes: dict[Annotated[str, StringConstraints(max_length=200)], Shape] | None = Field(
        default=None, max_length=64
    )

    @model_serializer(mode="wrap")
    def _without_sizes(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Agents of before know no sizes: they are told where there are any."""
        document: dict[str, Any] = write(self)
        if document.get("sizes") is None:
            document.pop("sizes", None)
        return document

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicates < self.replicates:
            raise ValueError(
                f"max_replicates must be >= replicates ({self.replicates}), "
                f"but got {self.max_replicates}"
            )
        return self

    @classmethod
    def screening(cls, *, seed: int = 0) -> Self:
        """Three processes: enough to rank candidates."""
        return cls(seed=seed)

    @classmethod
    def strict(
        cls, *, seed: int = 0, threshold: float | None = None, profile: bool = False
    ) -> Self:
        """At least six processes: for the dense model and for what is handed back. With a
        threshold fewer, where they tell on which side of it the ratio is."""
        return cls(
            kind="strict", replicates=6, max_replicates=12, half_width=0.01, timing_s=0.25,
            overtime=4.0, time_limit_s=300.0, seed=seed, threshold=threshold, profile=profile,
        )  # fmt: skip


class Workload(_Part):
    """A model to time: named by the SHA-256 of its ONNX bytes, inline (zlib, base64) when small.

    With `data` None the device fetches `GET {server}/v1/skeletons/{digest}` and checks the hash.
    """

    digest: Digest
    size: int = Field(ge=1, le=MAX_MODEL_BYTES)
    data: Annotated[str, StringConstraints(max_length=MAX_INLINE_BYTES * 4 // 3 + 4)] | None = None

    @classmethod
    def of(cls, model: bytes, *, inline: bool = True) -> Self:
        """The workload for these bytes; inline only if asked and small enough."""
        packed = zlib.compress(model) if inline and len(model) <= 16 * MAX_INLINE_BYTES else b""
        fits = 0 < len(packed) <= MAX_INLINE_BYTES
        return cls(
            digest=hashlib.sha256(model).hexdigest(),
            size=len(model),
            data=base64.b64encode(packed).decode() if fits else None,
        )

    def check(self, model: bytes) -> bytes:
        """Return `model` if it is this workload's.

        Raises:
            MessageError: its size or its hash differs.
        """
        if len(model) != self.size or hashlib.sha256(model).hexdigest() != self.digest:
            raise MessageError(f"model must have digest {self.digest}, but its bytes differ")
        return model

    def unpack(self) -> bytes:
        """The inline model, decompressed to no more than `size` bytes and checked.

        Raises:
            MessageError: there is no inline data, or it is not what it says.
        """
        if self.data is None:
            raise MessageError("workload must carry its data inline, but it has none")
        try:
            packed = base64.b64decode(self.data, validate=True)
            model = zlib.decompressobj().decompress(packed, self.size + 1)
        except (binascii.Error, zlib.error) as error:
            raise MessageError(f"workload data must be base64 of zlib, but: {error}") from error
        return self.check(model)


class Lease(BaseModel):
    """Which request, and in whose hands: what there is to answer when the rest is unreadable."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    request_id: Identifier
    attempt: Attempt
    lease_token: Identifier


class MeasureRequest(_Message):
    """One candidate to be timed against the reference, under one lease."""

    type: Literal["request"] = "request"
    request_id: Identifier
    attempt: Attempt
    lease_token: Identifier
    candidate: Workload
    reference: Workload
    target: Target = Target()
    settings: Settings = Settings()


class MeasureError(_Part):
    """Why there is no measurement. A failed measurement is data, not an exception."""

    type: Literal["error"] = "error"
    kind: ErrorKind
    message: Annotated[str, StringConstraints(max_length=2000)]


Outcome = Annotated[Measurement | MeasureError, Field(discriminator="type")]


class MeasureResult(_Message):
    """What came of a request: raw samples with their interval, or a typed error."""

    type: Literal["result"] = "result"
    request_id: Identifier
    attempt: Attempt
    lease_token: Identifier
    outcome: Outcome


class Heartbeat(_Message):
    """The device lives. `request_id` is what it works on, if anything."""

    type: Literal["heartbeat"] = "heartbeat"
    state: Literal["online", "busy", "draining"]
    sent_at: AwareDatetime
    cores: tuple[NonNegativeInt, ...] = Field(max_length=1024)
    request_id: Identifier | None = None


class RuntimeInfo(_Part):
    """A runtime that the device can run, with what it can run on.

    Attributes:
        formats: of layers in int8 (`u8s8`: uint8 activations, int8 weights) that it computes
            exactly; an agent that announces none gets float models alone.
    """

    version: Line
    providers: tuple[Name, ...] = Field(min_length=1, max_length=32)
    formats: tuple[Name, ...] = Field(default=(), max_length=16)


class Machine(_Part):
    """What a machine is; None is unknown.

    Attributes:
        isa: instruction sets that matter, as avx2, avx512_vnni, neon, dotprod.
        caches_kb: L1d, L1i, L2, L3 in KiB.
        memory_mb: of the machine, or of the control group where that is less.
        container: which kind, or `none`.
    """

    cpu: Line | None = None
    board: Line | None = None
    architecture: Line | None = None
    isa: tuple[Name, ...] | None = Field(default=None, max_length=64)
    caches_kb: dict[Name, NonNegativeInt] | None = Field(default=None, max_length=16)
    memory_mb: int | None = Field(default=None, ge=1, lt=2**40)
    gpus: tuple[Line, ...] | None = Field(default=None, max_length=32)
    os: Line | None = None
    kernel: Line | None = None
    hostname: Line | None = None
    power: Literal["mains", "battery"] | None = None
    container: Line | None = None


class Capabilities(Machine):
    """What the device is and has: `cores` that it measures on, runtimes that work there."""

    cores: int = Field(ge=1, le=65536)
    runtimes: dict[Name, RuntimeInfo] = Field(max_length=32)


class Hello(_Message):
    """What the device is now, said at every start of its agent."""

    type: Literal["hello"] = "hello"
    capabilities: Capabilities


class Enrolment(_Message):
    """The body of `POST /v1/devices/enrol`, with a one-off token."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    name: Name
    labels: dict[Name, Line] = Field(default={}, max_length=32)
    capabilities: Capabilities


class EnrolmentReply(_Message):
    """The server's answer: who the device is now, and the intervals that the server chose."""

    device_id: Identifier
    secret: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{16,128}$")]
    redis_url: Annotated[str, StringConstraints(pattern=r"^rediss?://", max_length=500)]
    heartbeat_s: float = Field(gt=0, le=600)
    lease_s: float = Field(gt=0, le=3600)


Report = Heartbeat | MeasureResult | Hello
_REPORT: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="type")])


def encode(message: BaseModel) -> str:
    """One message as the text of field `m`.

    Raises:
        MessageError: it would be longer than the other side accepts.
    """
    text = message.model_dump_json()
    _check_length(text)
    return text


def parse_request(text: str | bytes) -> MeasureRequest:
    """Read what the server sent.

    Raises:
        MessageError: it is too long or is no valid request.
    """
    _check_length(text)
    try:
        return MeasureRequest.model_validate_json(text)
    except ValidationError as error:
        raise MessageError(_summary(error)) from error


def lease_of(text: str | bytes) -> Lease | None:
    """The lease of a request that `parse_request` refused, perhaps for being of another version.
    None if even that cannot be read."""
    try:
        _check_length(text)
        return Lease.model_validate_json(text)
    except (MessageError, ValidationError):
        return None


def parse_report(text: str | bytes) -> Report:
    """Read what a device sent.

    Raises:
        MessageError: it is too long or is no valid report.
    """
    _check_length(text)
    try:
        return _REPORT.validate_json(text)
    except ValidationError as error:
        raise MessageError(_summary(error)) from error


def _check_length(text: str | bytes) -> None:
    if len(text) > MAX_MESSAGE_BYTES:
        raise MessageError(
            f"a message must be at most {MAX_MESSAGE_BYTES} bytes, but got {len(text)}"
        )


def _summary(error: ValidationError) -> str:
    """The first problems, without the input: a hostile message must not fill our logs."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)[:5]
    told = "; ".join(
        f"{'.'.join(map(str, p['loc'][:6]))[:100]}: {p['msg'][:200]}" for p in problems
    )
    return "".join(c if c.isprintable() else "?" for c in told)
