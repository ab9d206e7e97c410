"""Reads image classification data sets: IDX, `.npz`, image folders and allow-listed functions.

A split is read only when asked for, so that the test images stay unread until the choice is made.
"""

from __future__ import annotations

import gzip
import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.loaders.errors import DatasetError

SplitName = Literal["train", "test"]
Arrays = tuple[NDArray[Any], NDArray[Any]]
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
IDX_PREFIX = {"train": "train", "test": "t10k"}
FOLDERS = {"train": ("train",), "test": ("test", "val")}


@dataclass(frozen=True)
class Images:
    """One split.

    | symbol | meaning | shape |
    |---|---|---|
    | images | pixels as stored, uint8 or float32 | (N, C, H, W) |
    | labels | class indices | (N,) int64 |
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> Tensor:
        """Those images as the network takes them: float32, [0, 1] from uint8, normalised."""
        pixels = self.images[index]
        values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        if self.mean or self.std:
            shift = torch.tensor(self.mean or (0.0,)).view(1, -1, 1, 1)
            values = (values - shift) / torch.tensor(self.std or (1.0,)).view(1, -1, 1, 1)
        return values

    def select(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Network inputs (n, C, H, W) and labels (n,) of `index`."""
        return self.batch(index), self.labels[index]

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Network inputs and labels of the images from `start` up to `stop`."""
        return self.select(torch.arange(start, min(stop, len(self))))


@dataclass(frozen=True)
class Source:
    """Where a data set lies and how it is stored.

    Attributes:
        format: `idx`, `npz`, `image_folder` or `python`.
        path: A folder or file; for `python` the name `python:module:function`.
        image_shape: (C, H, W) that image files are scaled to; other formats keep their own.
        kwargs: Given to the function of the format `python`, after the split's name.
    """

    format: str
    path: str
    num_classes: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_shape: tuple[int, ...] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    allow: Collection[str] = ()

    def read(self, split: SplitName) -> Images:
        """Reads and checks one split.

        Raises:
            DatasetError: No images, labels out of range, or files that cannot be read.
        """
        if self.format not in READERS:
            raise DatasetError(f"format must be one of {sorted(READERS)}, but got {self.format!r}")
        try:
            images, labels = READERS[self.format](self, split)
        except DatasetError:
            raise
        except Exception as error:  # damaged files make the readers raise nearly anything
            raise DatasetError(
                f"{self.path}: the {split} split cannot be read: {error}"
            ) from error
        return self._checked(_channels_first(np.asarray(images)), np.asarray(labels), split)

    def require(self, split: SplitName) -> None:
        """Raises DatasetError unless the split is there; reads names only, no image."""
        if self.format == "idx":
            for kind in ("images-idx3", "labels-idx1"):
                _idx_path(Path(self.path), f"{IDX_PREFIX[split]}-{kind}-ubyte")
        elif self.format == "npz":
            _npz_names(self, split)
        elif self.format == "image_folder":
            _split_folder(Path(self.path), split)

    def _checked(self, images: NDArray[Any], labels: NDArray[Any], split: str) -> Images:
        if len(images) == 0:
            raise DatasetError(f"{self.path}: the {split} split holds no images")
        if labels.ndim != 1 or len(labels) != len(images):
            raise DatasetError(
                f"{self.path}: the {split} split has {len(images)} images but labels of shape "
                f"{list(labels.shape)}; give one label an image"
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise DatasetError(f"labels must be integers, but got {labels.dtype}")
        low, high = int(labels.min()), int(labels.max())
        classes = self.num_classes if self.num_classes is not None else high + 1
        if low < 0 or high >= classes:
            raise DatasetError(
                f"{self.path}: labels must be in 0..{classes - 1}, but the {split} split has "
                f"{low}..{high}; correct the labels or num_classes"
            )
        if images.dtype != np.uint8:
            images = images.astype(np.float32)
            if not np.isfinite(images).all():
                raise DatasetError(
                    f"{self.path}: the {split} split has pixels that are not finite"
                )
        pixels = torch.tensor(np.ascontiguousarray(images))
        return Images(pixels, torch.from_numpy(labels.astype(np.int64)), self.mean, self.std)


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise DatasetError(f"images must have 3 or 4 dimensions, but got {list(images.shape)}")
    if images.shape[1] > 4 and images.shape[3] <= 4:
        return images.transpose(0, 3, 1, 2)
    return images


def _read_idx(source: Source, split: SplitName) -> Arrays:
    folder, prefix = Path(source.path), IDX_PREFIX[split]
    return (
        _idx(folder, f"{prefix}-images-idx3-ubyte", dimensions=3),
        _idx(folder, f"{prefix}-labels-idx1-ubyte", dimensions=1),
    )


def _idx(folder: Path, name: str, *, dimensions: int) -> NDArray[Any]:
    """One IDX file (LeCun et al., the MNIST database), gzipped or not."""
    path = _idx_path(folder, name)
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 + 4 * dimensions or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise DatasetError(f"{path} is not an IDX file of {dimensions} dimensions of bytes")
    shape = np.frombuffer(raw, ">i4", count=dimensions, offset=4)
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
    if body.size != int(np.prod(shape.astype(np.int64))):
        raise DatasetError(f"{path} is truncated: {body.size} bytes for shape {shape.tolist()}")
    return body.reshape(shape)


def _idx_path(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    raise DatasetError(f"{folder} must hold {name} or {name}.gz, but has neither")


def _read_npz(source: Source, split: SplitName) -> Arrays:
    images, labels = _npz_names(source, split)
    with Path(source.path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return archive[images], archive[labels]


def _npz_names(source: Source, split: SplitName) -> tuple[str, str]:
    """The names of the split's arrays, which are there."""
    names = (f"x_{split}", f"y_{split}")
    with Path(source.path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
        missing = [name for name in names if name not in archive]
    if missing:
        raise DatasetError(
            f"{source.path} must hold x_train, y_train, x_test and y_test; {missing} missing"
        )
    return names


def _read_image_folder(source: Source, split: SplitName) -> Arrays:
    root = _split_folder(Path(source.path), split)
    classes = sorted(
        path.name for path in _split_folder(Path(source.path), "train").iterdir() if path.is_dir()
    )
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).glob("**/*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise DatasetError(f"{root} must hold one folder of images a class, but has no images")
    images = [_decode(path, source.image_shape) for path, _ in files]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise DatasetError(f"images must have one size, but {root} has {sorted(shapes)[:4]}")
    return np.stack(images), np.array([label for _, label in files])


def _split_folder(path: Path, split: SplitName) -> Path:
    for name in FOLDERS[split]:
        if (path / name).is_dir():
            return path / name
    raise DatasetError(f"{path} must hold the folder {' or '.join(FOLDERS[split])}")


def _decode(path: Path, shape: Sequence[int] | None) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            picture = image.convert("L" if shape and shape[0] == 1 else "RGB")
            if shape:
                picture = picture.resize((shape[2], shape[1]))
            pixels = np.asarray(picture, np.uint8)
    except Exception as error:  # decoders raise what they like
        raise DatasetError(f"{path} is not a readable image: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _read_python(source: Source, split: SplitName) -> Arrays:
    if source.path not in source.allow:
        raise DatasetError(
            f"{source.path!r} is not on this server's allow-list; "
            f"the operator adds it with `secateur up --allow {source.path}`"
        )
    module, _, function = source.path.removeprefix("python:").partition(":")
    try:
        images, labels = getattr(importlib.import_module(module), function)(split, **source.kwargs)
    except Exception as error:
        raise DatasetError(f"{source.path} failed on the {split} split: {error}") from error
    return np.asarray(images), np.asarray(labels)


READERS: dict[str, Callable[[Source, SplitName], Arrays]] = {
    "idx": _read_idx,
    "image_folder": _read_image_folder,
    "npz": _read_npz,
    "python": _read_python,
}
