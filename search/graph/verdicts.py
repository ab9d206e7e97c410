"""What the trials of an analysis told, so that a later run goes on where one had to stop.

Which trial is held next follows from the verdicts before it. So the verdicts so far are all that a
later run needs: it takes them over, and begins with the first trial that is not among them. It
knows no trial.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from search.graph.deadline import LATE, Interruptible, OutOfTime
from search.graph.exporting import Exported

if TYPE_CHECKING:
    from search.graph.pruning_graph import PruningGraph

Told: TypeAlias = dict[str, Any]  # JSON


@dataclass(frozen=True)
class Verdicts:
    """The trials of an analysis and what they told, in order.

    Attributes:
        told: digest of a trial -> its verdict. The digest covers the exported graph, its groups,
            the code of the model and of this library, so that a verdict on anything else is not
            taken over.
        closed: no other trial is to be held: what these leave open stays unverified.
    """

    told: tuple[tuple[str, Told], ...] = ()
    closed: bool = False

    def to_json(self) -> str:
        """The verdicts as JSON."""
        return json.dumps({"told": self.told, "closed": self.closed})

    @classmethod
    def from_json(cls, text: str) -> Verdicts:
        """What `to_json` wrote.

        Raises:
            ValueError: the text is something else.
        """
        try:
            document = json.loads(text)
            told = tuple((str(digest), dict(verdict)) for digest, verdict in document["told"])
            return cls(told, bool(document["closed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"verdicts must be what to_json wrote, but got {type(error).__name__}: {error}"
            ) from None


class Hearing:
    """Hears one trial after the other: from the verdicts so far, or by holding it.

    Args:
        verdicts: those so far.
        expired: tells that the time is over.

    Attributes:
        is_over: a trial was asked for that could not be held any more; so is none after it.
    """

    def __init__(self, verdicts: Verdicts, expired: Callable[[], bool]) -> None:
        self.is_over = False
        self.expired = expired
        self._closed = verdicts.closed
        self._told = list(verdicts.told)
        self._next = 0
        self._subject = ""

    @property
    def verdicts(self) -> Verdicts:
        """Those so far and the new ones."""
        return Verdicts(tuple(self._told), self._closed)

    def turn_to(self, subject: str) -> None:
        """From here on trials are of another subject; see `subject_of`."""
        self._subject = subject

    def verdict(self, trial: str, names: Sequence[str], hold: Callable[[], Told]) -> Told | None:
        """What a trial tells; None if the time is over.

        Args:
            trial: which one it is.
            names: of the groups that are tried.
            hold: holds it; its operators are broken off when the time is over.
        """
        if self.is_over:
            return None
        digest = hashlib.sha256("\n".join((self._subject, trial, *names)).encode()).hexdigest()
        if self._next < len(self._told):
            if self._told[self._next][0] == digest:
                self._next += 1
                return self._told[self._next - 1][1]
            self._closed = False  # they are of something else
        told = self._held(hold)
        if told is None:
            self.is_over = True
            return None
        self._told[self._next :] = [(digest, told)]
        self._next += 1
        return told

    def problem(
        self, trial: str, names: Sequence[str], hold: Callable[[], str | None]
    ) -> str | None:
        """`verdict` of a trial that tells a problem or none; LATE if the time is over."""
        told = self.verdict(trial, names, lambda: {"problem": hold()})
        return LATE if told is None else problem_in(told)

    def _held(self, hold: Callable[[], Told]) -> Told | None:
        if self._closed or self.expired():
            return None
        try:
            with Interruptible(self.expired):
                return hold()
        except OutOfTime:
            return None


def problem_in(told: Told) -> str | None:
    """The problem that a verdict tells."""
    problem: str | None = told["problem"]
    return problem


def subject_of(graph: PruningGraph, exported: Exported) -> str:
    """A digest of what a trial depends on: the exported graph and its constants, the groups, the
    classes of the model with what is set in them, its buffers, and the code of this library.
    Weights are drawn anew, and do not count; functions outside of the files of the classes are
    not seen."""
    parts = hashlib.sha256(f"{torch.__version__} {_own_code()}".encode())
    for text in (*sorted(set(_model_code(graph.model))), *_settings(graph.model)):
        parts.update(text.encode())
    buffers = {n: b for n, b in graph.model.named_buffers() if not _is_statistic(n)}
    parts.update(digest_of(buffers).encode())
    parts.update(f"{exported.graph_module.graph} {exported.statistics}".encode())
    parts.update(f"{exported.sources} {exported.inputs} {exported.dynamic}".encode())
    parts.update(digest_of({**exported.constants, **exported.integers}).encode())
    for value in graph.example_inputs:
        parts.update(f"{value.dtype} {tuple(value.shape)}".encode())
        if not value.is_floating_point():  # others are drawn
            parts.update(_bytes(value))
    for group in graph.groups:
        parts.update(f"{group.name} {group.kind} {group.status} {group.form}".encode())
    for atoms in (graph.group_of, graph.unit_of):
        parts.update(atoms.tobytes())
    return parts.hexdigest()


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A digest of tensors by name."""
    parts = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        parts.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        parts.update(_bytes(value))
    return parts.hexdigest()


def _is_statistic(name: str) -> bool:
    """Whether a buffer is drawn anew, as those of norms are."""
    return name.rpartition(".")[2].startswith("running_") or name.endswith("num_batches_tracked")


def _settings(model: nn.Module) -> Iterator[str]:
    """The plain values that are set in every module, by name."""
    for name, module in model.named_modules():
        plain = {key: value for key, value in vars(module).items() if _is_plain(value)}
        yield f"{name} {type(module).__qualname__} {sorted(plain.items())!r}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


@cache
def _own_code() -> str:
    root = Path(__file__).parents[1]
    return _digest_of(sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts))


def _model_code(model: nn.Module) -> Iterator[str]:
    """A digest of the file of every class of the model and of those that it inherits from; of the
    compiled functions where a class was typed in. Torch's own go by its version."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    for kind in kinds:
        if kind is object or kind.__module__.partition(".")[0] == "torch":
            continue
        file = _file_of(kind)
        yield _digest_of([file]) if file else "\n".join(_functions_of(kind))


def _file_of(kind: type) -> Path | None:
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):
        return None
    return Path(file) if file is not None and Path(file).is_file() else None


def _functions_of(kind: type) -> Iterator[str]:
    yield kind.__qualname__
    for name, value in sorted(vars(kind).items()):
        code = getattr(value, "__code__", None)
        if isinstance(code, CodeType):
            yield f"{name} {_compiled(code)}"


def _compiled(code: CodeType) -> str:
    constants = [_compiled(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code!r} {constants} {code.co_names} {code.co_freevars}"


def _digest_of(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
