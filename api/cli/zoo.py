"""Asks the libraries of networks about one, in a process of its own: this one loads no torch."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.cli.given import ZOOS, Unclear, short


def is_of_a_zoo(text: str) -> bool:
    """Whether MODEL names a network of a library."""
    scheme, colon, name = text.partition(":")
    return bool(colon and name) and scheme in ZOOS and not Path(text).exists()


def asked(
    architecture: str, kwargs: Mapping[str, Any], weights: Path | None = None
) -> dict[str, Any]:
    """`input_shape`, `mean` and `std` as far as the library knows them.

    Args:
        weights: Where its pretrained weights are written to; None fetches none.

    Raises:
        Unclear: The library says no, or is not installed.
    """
    command = [sys.executable, "-m", "workers.zoo", architecture, "--kwargs", json.dumps(kwargs)]
    if weights is not None:
        weights.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        command += ["--weights", str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().rpartition("\n")[2] or "it ended without a word"
        raise Unclear(f"MODEL must be a network that its library can describe, but: {words}")
    known: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return known


def kept_weights(home: Path, architecture: str, kwargs: Mapping[str, Any]) -> Path:
    """Where the pretrained weights of a network are kept on this machine."""
    text = json.dumps([architecture, kwargs], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return home / "pretrained" / f"{short(architecture)}-{digest}.safetensors"
