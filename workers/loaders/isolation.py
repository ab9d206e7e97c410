"""Keeps a zoo's constructor from reading anything: weights, configurations or code from elsewhere.

Two nets, as no list of arguments is ever whole: what is asked for is looked through at every
depth, and while a network is built no file outside of the installed libraries is opened for
reading and no connection is made.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from workers.loaders.errors import ArchitectureError

# Arguments by which a library would load from elsewhere, some of it pickles or code.
LOADING = re.compile(
    r"(?!pretrained_window_size)(\w*_)?pretrained(_\w+)?|\w*(checkpoint|ckpt)(_path|_file|_dir|_url|s)?|weights(_backbone)?"
    r"|(\w*_)?name_or_path|auto_map|trust_remote_code|cache_dir|backbone|(code_)?revision|hub_\w+"
    r"|quantization_config|state_dict"
)
# Texts of any kind, told apart from those that name something: labels of classes.
LABELS = frozenset({"id2label", "label2id"})
CODE = (".py", ".pyc", ".so")
KERNEL = ("/proc/", "/sys/", "/dev/")
CONNECTING = frozenset({
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
    "urllib.Request", "subprocess.Popen", "os.system", "os.posix_spawn",
})  # fmt: skip

_building = threading.local()


def refuse_loading(kwargs: Mapping[str, Any]) -> None:
    """Refuses arguments, at any depth, that would load something from elsewhere.

    Raises:
        ArchitectureError: names the argument. One that is null, false or empty loads nothing:
            published configurations hold some.
    """
    waiting: list[tuple[str, Any]] = [("", kwargs)]
    while waiting:
        name, value = waiting.pop()
        parts: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, Mapping):
            parts = [(key, part) for key, part in value.items() if key not in LABELS]
        elif isinstance(value, list | tuple):
            parts = enumerate(value)
        elif isinstance(value, str) and ("/" in value or "\\" in value):
            raise ArchitectureError(
                f"kwargs.{name} must name no file, address or repository, but got {value!r:.100}"
            )
        for key, part in parts:
            inner = f"{name}.{key}".lstrip(".")
            if part and LOADING.fullmatch(str(key)):
                raise _refused(inner)
            waiting.append((inner, part))


def load_nothing(config: Any) -> None:
    """Turns off what a configuration loads unless it is told otherwise, in nested ones too."""
    waiting, seen = [config], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen or not hasattr(each, "__dict__"):
            continue
        seen.add(id(each))
        if hasattr(each, "use_pretrained_backbone"):
            each.use_pretrained_backbone = False
        waiting += [inner for inner in vars(each).values() if type(inner).__name__ != "module"]


@contextmanager
def reading_nothing() -> Iterator[None]:
    """Within it, this thread opens no file to read but code of the installed libraries, connects
    to nothing and starts nothing.

    Raises:
        ArchitectureError: in the place where that was tried.
    """
    _watch()
    _building.now = True
    try:
        yield
    finally:
        _building.now = False


@cache
def _watch() -> None:
    sys.addaudithook(_refuse)  # it cannot be taken away again, so it is added once


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not getattr(_building, "now", False):
        return
    if event in CONNECTING:
        raise _tried(f"{event} {arguments[-1]!r:.100}")
    if event == "open" and _reads(arguments) and not _is_of_a_library(arguments[0]):
        raise _tried(f"open {arguments[0]!r:.200}")


def _reads(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments[2] & os.O_ACCMODE != os.O_WRONLY)


def _is_of_a_library(path: Any) -> bool:
    if isinstance(path, int):
        return True
    text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - no look at the disk in a hook
    return text.endswith(CODE) or text.startswith((*KERNEL, *_libraries()))


@cache
def _libraries() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {sysconfig.get_path(name) for name in names}
    return tuple(f"{each}/" for path in found for each in (path, Path(path).resolve()))


def _tried(what: str) -> ArchitectureError:
    return ArchitectureError(
        f"building an architecture must read nothing, but tried to {what}: weights come as "
        "safetensors alone"
    )


def _refused(name: str) -> ArchitectureError:
    return ArchitectureError(
        f"kwargs must not hold {name}: weights come as safetensors alone, and nothing else is "
        "loaded"
    )
