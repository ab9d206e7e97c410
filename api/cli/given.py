"""What MODEL and DATA of `secateur prune` are: specs and files, with names made of their content.

Looks at names, sizes and first bytes; reads no network and no image.
"""

import hashlib
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.near import near

ZOOS = ("timm", "torchvision", "transformers", "pytorchcv")
SCHEMES = ("python", *ZOOS)
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
IDX = ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz")
HEAD = 400  # names of an archive that are looked at


class Unclear(Exception):
    """What was given is no model or no data; the message says what it must be."""


@dataclass(frozen=True)
class Given:
    """A model or a data set to be submitted.

    Attributes:
        spec: The document, with a name made of the content.
        file: What is uploaded beside it.
        allow: The function that the service must be allowed to call, if there is one.
        stem: A short name for people.
    """

    spec: Mapping[str, Any]
    file: Path | None
    stem: str
    allow: str | None = None

    @property
    def name(self) -> str:
        return str(self.spec["name"])


def model_of(
    text: str,
    *,
    weights: Path | None = None,
    input_shape: Sequence[int] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Given | None:
    """The model that MODEL means; None where it can only be the name of one on the server.

    Raises:
        Unclear: It is a file of another kind, its weights are missing, or the scheme is unknown.
    """
    scheme, colon, name = text.partition(":")
    path = Path(text).expanduser()
    if colon and not path.exists():
        if scheme not in SCHEMES or not name:
            raise Unclear(
                f"MODEL must begin with one of {', '.join(f'{each}:' for each in SCHEMES)}, or be "
                f"an ONNX file, but got {text!r}{near(scheme, SCHEMES)}"
            )
        return _architecture(text, weights, input_shape, kwargs or {})
    if path.suffix.lower() == ".onnx" or path.is_file():
        return _onnx_file(path, weights, input_shape)
    if path.is_dir() or os.sep in text:
        raise Unclear(
            f"MODEL must be an ONNX file or a name such as timm:resnet18, but {text} is "
            f"{'a folder' if path.is_dir() else 'not there'}"
        )
    return None


def data_of(text: str, options: Mapping[str, Any], *, upload: bool = False) -> Given | None:
    """The data set that DATA means; None where it can only be the name of one on the server.

    Args:
        options: Further fields of its spec: mean, std, num_classes, format.
        upload: The server is elsewhere, and sees no folder of this machine.

    Raises:
        Unclear: It holds no data that is known.
    """
    if text.startswith("python:"):
        spec = {"format": "python", "function": text, **options}
        return _named(spec, None, text.rpartition(":")[2], text, allow=text)
    path = Path(text).expanduser().absolute()
    if not path.exists():
        if os.sep in text or path.suffix:
            raise Unclear(
                f"DATA must be a folder, an .npz file or an archive, but {text} is not there"
            )
        return None
    kind = str(options.get("format") or data_format(path))
    spec = {**options, "format": kind}
    packed = path.is_file() and is_archive(path)
    if packed or (upload and path.is_file()):
        return _named(spec, path, path.name.split(".")[0], digest_of(path))
    if upload:
        raise Unclear(
            f"DATA must be one file for a server elsewhere, but {text} is a folder: pack it as "
            "a zip archive"
        )
    return _named({**spec, "path": str(path)}, None, path.stem, fingerprint(path))


def data_format(path: Path) -> str:
    """`npz`, `idx` or `image_folder`, by what lies there.

    Raises:
        Unclear: None of these; the message says what they look like.
    """
    if path.is_file() and path.suffix.lower() == ".npz":
        return "npz"
    names = _names(path)
    parts = [each.strip("/").split("/") for each in names]
    if any(each[-1] in IDX for each in parts):
        return "idx"
    if any("train" in each[:2] for each in parts):
        return "image_folder"
    raise Unclear(
        f"DATA must hold train/<class>/… and test/<class>/… with images, or the four files of "
        f"MNIST, or be an .npz file with x_train, y_train, x_test and y_test, but {path} holds "
        f"{', '.join(names[:3]) or 'nothing'}"
    )


def is_archive(path: Path) -> bool:
    """Whether the name is that of a zip or tar archive."""
    return path.name.lower().endswith(ARCHIVES)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """Digest of a file, or of the names, sizes and times of the files in a folder."""
    if path.is_file():
        return digest_of(path)
    seen = hashlib.sha256(str(path).encode())
    for place, folders, names in os.walk(path, followlinks=False):
        folders.sort()
        for name in sorted(names):
            file = Path(place, name)
            state = file.lstat()
            seen.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return seen.hexdigest()


def short(stem: str) -> str:
    """A stem as names may have it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:40] or "unnamed"


def _architecture(
    text: str,
    weights: Path | None,
    input_shape: Sequence[int] | None,
    kwargs: Mapping[str, Any],
) -> Given:
    if weights is None:
        raise Unclear(
            f"--weights must name the safetensors file of {text}: with timm, "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') writes it"
        )
    if not weights.is_file():
        raise Unclear(f"--weights must be a file, but {weights} is not there")
    _refuse_pickle(weights, "--weights")
    if input_shape is None:
        raise Unclear(
            f"--input-shape must be given for {text}: one example without the batch, such as "
            "3,224,224"
        )
    spec: dict[str, Any] = {"architecture": text, "input_shape": [*input_shape]}
    if kwargs:
        spec["kwargs"] = dict(kwargs)
    allow = text if text.startswith("python:") else None
    return _named(spec, weights, text.rpartition(":")[2], digest_of(weights), allow=allow)


def _onnx_file(path: Path, weights: Path | None, input_shape: Sequence[int] | None) -> Given:
    if not path.is_file():
        raise Unclear(f"MODEL must be an ONNX file, but {path} is not there")
    _refuse_pickle(path, "MODEL")
    if path.suffix.lower() != ".onnx":
        raise Unclear(
            f"MODEL must be an ONNX file (.onnx) or a name such as timm:resnet18, but got {path}; "
            "a safetensors file goes to --weights"
        )
    if weights is not None:
        raise Unclear("--weights must not be given with an ONNX file, which holds its weights")
    spec: dict[str, Any] = {"architecture": "onnx"}
    if input_shape is not None:
        spec["input_shape"] = [*input_shape]
    return _named(spec, path, path.stem, digest_of(path))


def _refuse_pickle(path: Path, what: str) -> None:
    if path.suffix.lower() in PICKLES:
        raise Unclear(
            f"{what} must not be a pickle, because reading one runs code, but got {path.name}: "
            "save the state dict by safetensors.torch.save_file, or export the network as ONNX"
        )


def _named(
    spec: Mapping[str, Any], file: Path | None, stem: str, content: str, allow: str | None = None
) -> Given:
    text = json.dumps([spec, content], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Given({"name": f"{short(stem)}-{digest}", **spec}, file, short(stem), allow)


def _names(path: Path) -> list[str]:
    """Some names in a folder or archive."""
    if path.is_dir():
        return sorted(each.name for each in path.iterdir() if not each.name.startswith("."))
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return archive.namelist()[:HEAD]
        with tarfile.open(path) as tar:
            return [member.name for member, _ in zip(tar, range(HEAD), strict=False)]
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise Unclear(
            f"DATA must be a folder, an .npz file, or a zip or tar archive, but {path}: {error}"
        ) from error
