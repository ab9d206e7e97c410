"""A digest of all that the result of a trial depends on: it keys the records of trials.

It knows no trial and no result.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from search.graph.verification.subject import Subject


def fingerprint_of(subject: Subject) -> str:
    """A digest of what a trial depends on: the exported graph and its constants, the groups, the
    classes of the model with what is set in them, its buffers, and the code of this library.

    Weights are drawn anew, and do not count; functions outside of the files of the classes are
    not seen.

    Args:
        subject: of the trials.

    Returns:
        A hexadecimal SHA-256.
    """
    graph, exported = subject.graph, subject.exported
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


@cache
def _own_code() -> str:
    root = Path(__file__).parents[2]
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


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hexadecimal SHA-256 of tensors by name: of their dtypes, shapes and values."""
    parts = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        parts.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        parts.update(_bytes(value))
    return parts.hexdigest()


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


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
