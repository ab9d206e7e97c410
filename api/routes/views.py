"""What the API shows of each thing, as pydantic models. It imports no web framework."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

Document = dict[str, Any]


def _shown(value: Any) -> Any:
    return {"unreadable": value} if value is None else value


# A list of rows is shown whatever one of them holds.
Stored = Annotated[Document, BeforeValidator(_shown)]


class _View(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class ModelView(_View):
    """A model: ``checking`` until a worker has looked at it, then ``ready`` or ``rejected``."""

    id: str
    name: str
    state: str
    spec: Stored
    weights_digest: str
    report: Document | None
    problem: Document | None
    created_at: datetime
    updated_at: datetime


class DatasetView(_View):
    """A data set, with what was found in it or why it was rejected."""

    id: str
    name: str
    state: str
    spec: Stored
    archive_digest: str | None
    info: Document | None
    problem: Document | None
    created_at: datetime
    updated_at: datetime


class JobView(_View):
    """A job. ``waiting_for`` says in words what it waits for, ``problem`` why it has no result."""

    id: str
    name: str | None
    state: str
    spec: Stored
    model_id: str
    dataset_id: str
    progress: Document | None
    waiting_for: str | None
    result: Document | None
    problem: Document | None
    stop_requested: bool
    cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


class EventView(_View):
    """One entry of a job's log. Numbers start at 1 and have no gaps."""

    number: int
    at: datetime
    kind: str
    data: Stored


class CandidateView(_View):
    """A node of the tree. Level 0 holds the measurements of single groups.

    Attributes:
        int8_layers: How many layers of the plan are in int8.
    """

    digest: str
    parent: str | None
    level: int
    origin: str
    skeleton_digest: str | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    latency_ms: float | None
    loss: float | None
    kept: bool
    error: str | None
    int8_layers: int


class CandidateDetail(CandidateView):
    """A node of the tree with what its plan keeps.

    Attributes:
        widths: Channels that stay of each group that is searched.
        int8: The layers that are in int8.
        steps: How many steps of fine-tuning its weights have had in the tree.
    """

    widths: dict[str, int]
    int8: list[str]
    steps: int


class TreeView(BaseModel):
    """The candidates of a job; the budget as a ratio of the dense latency where it is known.

    Attributes:
        version: Ask with it as ``after`` for what changes from now on.
        whole: The items are all candidates; others that were read before are no more.
    """

    job_id: str
    version: int
    whole: bool
    budget_ratio: float | None
    dense_latency_ms: float | None
    items: list[CandidateView]
    next: None = None


class ArtifactView(_View):
    """A file that a job made, at ``/v1/jobs/{id}/artifacts/{name}``."""

    name: str
    size: int
    sha256: str
    created_at: datetime


class DeviceView(_View):
    """A device and what it announced about itself. Read alone it also tells, newest first, which
    jobs it joined in measuring, and why it was refused or set aside."""

    id: str
    name: str
    state: str
    drain_requested: bool
    labels: Stored
    capabilities: Stored
    last_seen: datetime | None
    created_at: datetime
    problem: Document | None
    dropped_answers: int
    pools: list[Document] = []


class CheckView(_View):
    """A check of a device. ``workload`` names the model that is measured against itself,
    ``waiting_for`` says in words what it waits for, ``error`` why it has no result."""

    id: str
    device_id: str
    state: str
    workload: str
    skeleton_digest: str
    target: Stored
    settings: Stored
    progress: Document | None
    waiting_for: str | None
    result: Document | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class TokenView(BaseModel):
    """A one-off enrolment token; it is shown once."""

    token: str
    expires_at: datetime


class KeyView(_View):
    """An API key without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewKeyView(KeyView):
    """A key just made, with the whole key; it is shown once."""

    key: str
