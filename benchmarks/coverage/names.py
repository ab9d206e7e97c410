"""Names of models: from the command line, or from files that hold one a line. Builds nothing."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

PEER_LIBRARIES = {"torch-pruning": "torch_pruning", "modelopt-fastnas": "modelopt"}
SCHEMES = ("timm", "torchvision", "transformers", "pytorchcv", "python")


class ModelNameError(ValueError):
    """A name that no zoo can have, or a file that cannot be read."""


def read_names(arguments: Iterable[str]) -> list[str]:
    """The models that the arguments name, each once, in order.

    Args:
        arguments: names such as `timm:resnet18`, and files of them; in a file, blank lines and
            what follows a `#` do not count.

    Raises:
        ModelNameError: a name without a known scheme, or a file that cannot be read.
    """
    names: dict[str, None] = {}
    for argument in arguments:
        lines = [(argument, "")] if is_name(argument) else _lines(argument)
        for line, place in lines:
            if not is_name(line):
                raise ModelNameError(f"a model must be one of {_known()}, but got {line!r}{place}")
            names.setdefault(line)
    return list(names)


def is_name(text: str) -> bool:
    """Whether `text` has a known scheme and a name behind it."""
    scheme, _, name = text.partition(":")
    return scheme in SCHEMES and bool(name) and (scheme != "python" or ":" in name)


def installed_peers() -> list[str]:
    """The peers that this environment has."""
    return [tool for tool, library in PEER_LIBRARIES.items() if find_spec(library)]


def _lines(path: str) -> list[tuple[str, str]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelNameError(
            f"--models must be names ({_known()}) or readable files of them, but got {path!r}: "
            f"{error}"
        ) from None
    stripped = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [(line, f" ({path}:{n})") for n, line in enumerate(stripped, 1) if line]


def _known() -> str:
    return ", ".join(f"{s}:{'MODULE:FUNCTION' if s == 'python' else 'NAME'}" for s in SCHEMES)
