"""The typed calls of the REST API: models, data sets, jobs, their events, devices, checks, keys.

Knows the shape of the documents (`api.routes.views`), no database, no FastAPI; requests are those
of `api.transport`.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from api.onnx_packing import packed
from api.routes.views import (
    ArtifactView,
    CandidateDetail,
    CheckView,
    DatasetView,
    DeviceView,
    EventView,
    JobView,
    KeyView,
    ModelView,
    NewKeyView,
    TokenView,
    TreeView,
)
from api.transport import (
    BrokenDownload,
    Document,
    Http,
    ServerUnreachable,
    WaitTimeout,
    refusal,
)

TERMINAL = frozenset({"succeeded", "infeasible", "failed", "cancelled"})
OUTAGE_S = 30.0


V = TypeVar("V", bound=BaseModel)
C = TypeVar("C", bound=ModelView | DatasetView)


def finished(job: JobView) -> bool:
    """Whether the state of a job is final."""
    return job.state in TERMINAL


def has_ended(check: CheckView) -> bool:
    """Whether the state of a check is final."""
    return check.state in ("done", "failed")


class Resource(Generic[V]):
    """The calls that every kind of document has."""

    path: str
    view: type[V]

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self) -> Sequence[V]:
        """All of them."""
        return [self.view.model_validate(item) for item in self._http.pages(self.path)]

    def get(self, name: str) -> V:
        """The one with this id or name."""
        return self._view(self._http.send("GET", self._path(name)))

    def _path(self, name: str, *parts: str) -> str:
        return "/".join([self.path, quote(name, safe=""), *parts])

    def _view(self, response: httpx.Response) -> V:
        return self.view.model_validate(response.json())

    def _post(self, name: str, action: str) -> V:
        return self._view(self._http.send("POST", self._path(name, action)))

    def _wait(
        self,
        name: str,
        is_over: Callable[[V], bool],
        timeout_s: float | None,
        pause_s: float,
        seen: Callable[[V], None],
    ) -> V:
        started_s = answered_s = time.monotonic()
        while True:
            try:
                view = self.get(name)
            except ServerUnreachable:
                if time.monotonic() - answered_s > OUTAGE_S:
                    raise
            else:
                answered_s = time.monotonic()
                seen(view)
                if is_over(view):
                    return view
            if timeout_s is not None and time.monotonic() - started_s > timeout_s:
                raise WaitTimeout(f"{name} must finish within {timeout_s:g} s, but it did not")
            time.sleep(pause_s)


class Removable(Resource[V]):
    """What can be removed."""

    def remove(self, name: str) -> None:
        """Removes the one with this id or name, with its files.

        Raises:
            ApiProblem: If there is none (404), or something that has not ended uses it (409).
        """
        self._http.send("DELETE", self._path(name), timeout=None)


class Inputs(Removable[C]):
    """Models and data sets: submitted, then checked by a worker."""

    def wait(
        self,
        name: str,
        *,
        timeout_s: float = 3600.0,
        pause_s: float = 0.5,
        seen: Callable[[C], None] = lambda _: None,
    ) -> C:
        """The document once it is no longer being checked; most take seconds, some half an hour.

        Args:
            seen: Told of each look while it is being checked.

        Raises:
            WaitTimeout: If it is still being checked after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (view := self.get(name)).state == "checking":
            if time.monotonic() > deadline:
                raise WaitTimeout(
                    f"{name} must be checked within {timeout_s:g} s, but it is not: the check "
                    "goes on by itself, wait for longer"
                )
            seen(view)
            time.sleep(pause_s)
        return view


class Models(Inputs[ModelView]):
    """`/v1/models`."""

    path, view = "/v1/models", ModelView

    def add(self, spec: Mapping[str, Any], weights: Path) -> ModelView:
        """Submits a model: its spec and a safetensors or ONNX file.

        Data files of an ONNX file, which lie beside it, are sent along in one file.

        Raises:
            PackingError: such a data file is missing, short, or lies elsewhere.
        """
        is_onnx = spec.get("architecture") == "onnx"
        place = packed(weights) if is_onnx else nullcontext(weights)
        with place as whole, whole.open("rb") as file:
            parts = {"weights": (weights.name, file, "application/octet-stream")}
            form = {"spec": json.dumps(dict(spec))}
            return self._view(
                self._http.send("POST", self.path, data=form, files=parts, timeout=None)
            )

    def graph(self, name: str) -> Document:
        """The stored report of its groups."""
        document: Document = self._http.send("GET", self._path(name, "graph")).json()
        return document


class Datasets(Inputs[DatasetView]):
    """`/v1/datasets`."""

    path, view = "/v1/datasets", DatasetView

    def add(self, spec: Mapping[str, Any], archive: Path | None = None) -> DatasetView:
        """Submits a data set: a spec with a path on the server, or an archive to upload."""
        if archive is None:
            return self._view(self._http.send("POST", self.path, json=dict(spec)))
        with archive.open("rb") as file:
            parts = {"archive": (archive.name, file, "application/octet-stream")}
            form = {"spec": json.dumps(dict(spec))}
            return self._view(
                self._http.send("POST", self.path, data=form, files=parts, timeout=None)
            )


class Jobs(Removable[JobView]):
    """`/v1/jobs`."""

    path, view = "/v1/jobs", JobView

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> JobView:
        """Submits a job; with the same key a repeated call returns the first job.

        Where requests are sent again, a call without a key makes itself one.
        """
        key = idempotency_key or (uuid.uuid4().hex if self._http.retries else None)
        headers = {"Idempotency-Key": key} if key else {}
        return self._view(self._http.send("POST", self.path, json=dict(spec), headers=headers))

    def resolve(
        self,
        job_id: str,
        budget: str | Mapping[str, float],
        *,
        device: str | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> JobView:
        """A new job like this one for another budget, which goes on from what it found out.

        Args:
            budget: As text, `60%` or `20ms`, or `{"ratio": 0.6}`.
            device: Another one, as in `target` of a job; by default that of the job.
        """
        key = idempotency_key or (uuid.uuid4().hex if self._http.retries else None)
        headers = {"Idempotency-Key": key} if key else {}
        asked = budget if isinstance(budget, str) else dict(budget)
        document = {"budget": asked, "name": name} | ({"device": device} if device else {})
        path = self._path(job_id, "resolve")
        return self._view(self._http.send("POST", path, json=document, headers=headers))

    def stop(self, job_id: str) -> JobView:
        """Asks it to finish with the best so far."""
        return self._post(job_id, "stop")

    def cancel(self, job_id: str) -> JobView:
        """Asks it to end without a result."""
        return self._post(job_id, "cancel")

    def events(self, job_id: str, *, after: int = 0) -> Sequence[EventView]:
        """Its log from the entry after `after`."""
        items = self._http.pages(self._path(job_id, "events"), {"after": after})
        return [EventView.model_validate(item) for item in items]

    def tree(self, job_id: str, *, after: int | None = None) -> TreeView:
        """Its candidates; with the `version` of an earlier answer those that changed since."""
        query = {} if after is None else {"after": after}
        answer = self._http.send("GET", self._path(job_id, "tree"), params=query)
        return TreeView.model_validate(answer.json())

    def candidate(self, job_id: str, digest: str) -> CandidateDetail:
        """One of its candidates, with widths."""
        answer = self._http.send("GET", self._path(job_id, "tree", quote(digest, safe="")))
        return CandidateDetail.model_validate(answer.json())

    def artifacts(self, job_id: str) -> Sequence[ArtifactView]:
        """The files it produced."""
        items = self._http.pages(self._path(job_id, "artifacts"))
        return [ArtifactView.model_validate(item) for item in items]

    def download(self, job_id: str, artifact: ArtifactView, target: Path) -> None:
        """Writes one file it produced to `target`; nothing is left when that fails.

        Raises:
            BrokenDownload: If the bytes are not those that were listed.
        """
        path = self._path(job_id, "artifacts", quote(artifact.name, safe=""))
        partial = target.with_name(target.name + ".part")
        try:
            if self._stream(path, partial) != artifact.sha256:
                raise BrokenDownload(f"{artifact.name} must have SHA-256 {artifact.sha256}")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _stream(self, path: str, target: Path) -> str:
        digest = hashlib.sha256()
        with ExitStack() as stack:
            try:
                request = self._http.client.stream("GET", path, timeout=None)
                response = stack.enter_context(request)
                if not response.is_success:
                    response.read()
                    raise refusal(response)
                file = stack.enter_context(target.open("wb"))
                for chunk in response.iter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
            except httpx.HTTPError as error:
                raise self._http.unreachable(error) from error
        return digest.hexdigest()

    def wait(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        pause_s: float = 1.0,
        seen: Callable[[JobView], None] = lambda _: None,
    ) -> JobView:
        """The job once it has finished; `seen` receives it at every look.

        A server that is away for less than `OUTAGE_S` (it is being restarted) is waited for.

        Raises:
            WaitTimeout: If it has not finished after `timeout_s`.
            ServerUnreachable: If nobody answered for too long.
        """
        return self._wait(job_id, finished, timeout_s, pause_s, seen)


class Devices(Removable[DeviceView]):
    """`/v1/devices`."""

    path, view = "/v1/devices", DeviceView

    def token(self) -> TokenView:
        """A token with which one new device may enrol."""
        return TokenView.model_validate(self._http.send("POST", f"{self.path}/tokens").json())

    def drain(self, device_id: str) -> DeviceView:
        """Lets it finish what it does and gives it nothing more."""
        return self._post(device_id, "drain")

    def resume(self, device_id: str) -> DeviceView:
        """Takes a drain back."""
        return self._post(device_id, "resume")

    def revoke(self, device_id: str) -> DeviceView:
        """Takes its credentials away for good."""
        return self._post(device_id, "revoke")

    def check(self, device_id: str, spec: Mapping[str, Any]) -> CheckView:
        """Starts a check: `model`, `runtime`, `provider`, `threads` and `quick`, all optional."""
        path = self._path(device_id, "checks")
        return CheckView.model_validate(self._http.send("POST", path, json=dict(spec)).json())

    def checks(self, device_id: str) -> Sequence[CheckView]:
        """Its checks, newest first."""
        items = self._http.pages(self._path(device_id, "checks"))
        return [CheckView.model_validate(item) for item in items]


class Checks(Resource[CheckView]):
    """`/v1/checks`: one by one; `Devices.checks` lists them."""

    path, view = "/v1/checks", CheckView

    def cancel(self, check_id: str) -> CheckView:
        """Ends it without a result."""
        return self._post(check_id, "cancel")

    def wait(
        self,
        check_id: str,
        *,
        timeout_s: float | None = None,
        pause_s: float = 1.0,
        seen: Callable[[CheckView], None] = lambda _: None,
    ) -> CheckView:
        """The check once it has ended; as `Jobs.wait`."""
        return self._wait(check_id, has_ended, timeout_s, pause_s, seen)


class Keys(Resource[KeyView]):
    """`/v1/keys`."""

    path, view = "/v1/keys", KeyView

    def create(
        self, name: str, scopes: Sequence[str], *, expires_at: str | None = None
    ) -> NewKeyView:
        """A new key; its secret is shown this once."""
        spec = {"name": name, "scopes": [*scopes], "expires_at": expires_at}
        answer = self._http.send("POST", self.path, json=spec)
        return NewKeyView.model_validate(answer.json())

    def revoke(self, key_id: str) -> None:
        """Makes a key worthless."""
        self._http.send("DELETE", self._path(key_id))
