"""Where a data set lies, and how its splits are read and checked, as arrays. No torch.

A split is read only when asked for, so that the test images stay unread until the choice is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from jobs.data_roots import ANYWHERE, DataRoots
from jobs.spec import DatasetSpec
from workers.loaders import image_files
from workers.loaders.archives import unpack
from workers.loaders.arrays import NpzFile, open_npz, read_idx
from workers.loaders.errors import DatasetError
from workers.loaders.files import refuse_outside
from workers.loaders.pixels import checked_pixels, refuse_other_scale

SplitName = Literal["train", "test"]
Arrays = tuple[NDArray[Any], NDArray[Any]]
IDX_PREFIX = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class Upload:
    """An uploaded file, and the folder that an archive is unpacked into once."""

    file: Path
    folder: Path

    def place(self, format: str) -> Path:
        """Where the data lies; raises DatasetError if it cannot be unpacked."""
        return self.file if format == "npz" else unpack(self.file, self.folder)


@dataclass(frozen=True)
class ArraySource:
    """Where a data set lies and how it is stored.

    Attributes:
        format: `idx`, `npz`, `image_folder` or `python`.
        path: A folder or file; for `python` the name `python:module:function`.
        mean: Subtracted per channel; std: divided by.
        image_shape: (C, H, W) that image files are scaled to; other formats keep their own.
        kwargs: Given to the function of the format `python`, after the split's name.
        allow: The `python:` names that may be called.
        roots: Where the files of the other formats must lie.
    """

    format: str
    path: str
    num_classes: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_shape: tuple[int, ...] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    allow: Collection[str] = ()
    roots: DataRoots = ANYWHERE

    @classmethod
    def of(
        cls,
        spec: DatasetSpec,
        upload: Upload | None,
        *,
        allow: Collection[str],
        roots: DataRoots,
        image_shape: tuple[int, ...] | None = None,
    ) -> Self:
        """The source that a spec names; an uploaded archive is unpacked here once.

        Raises:
            DatasetError: The archive cannot be unpacked.
        """
        if upload is not None:
            place = upload.place(spec.format)
            path, roots = str(place), DataRoots((place,))
        else:
            path = spec.path or spec.function or ""
        return cls(
            format=spec.format,
            path=path,
            num_classes=spec.num_classes,
            mean=tuple(spec.mean or ()),
            std=tuple(spec.std or ()),
            image_shape=image_shape,
            kwargs=spec.kwargs,
            allow=allow,
            roots=roots,
        )

    def arrays(self, split: SplitName) -> Arrays:
        """Reads and checks one split: uint8 or float32 images (N, C, H, W), int64 labels (N,).

        Raises:
            DatasetError: No images, pixels of another range, labels out of range, or files that
                cannot be read.
        """
        if self.format not in READERS:
            raise DatasetError(f"format must be one of {sorted(READERS)}, but got {self.format!r}")
        images, labels = self._guarded(split, READERS[self.format])
        images, labels = np.asarray(images), np.asarray(labels)
        labels = self.checked_labels(labels, len(images) if images.ndim else 0, split)
        return self.checked_images(images, split), labels

    def require(self, split: SplitName, train: Arrays | None = None) -> None:
        """Raises DatasetError where the split is missing or, as far as its names, headers,
        labels and range of pixels show, unlike `train`. A function is not called for it."""
        checks = {"idx": _require_idx, "npz": _require_npz, "image_folder": _require_image_folder}
        if self.format in checks:
            self._guarded(split, lambda _, each: checks[self.format](self, each, train))

    def _guarded(self, split: SplitName, read: Callable[[ArraySource, SplitName], Any]) -> Any:
        try:
            return read(self, split)
        except DatasetError:
            raise
        except Exception as error:  # damaged files make the readers raise nearly anything
            raise DatasetError(
                f"{self.path}: the {split} split cannot be read: {error}"
            ) from error

    def checked_images(self, images: NDArray[Any], split: str) -> NDArray[Any]:
        """The images (N, C, H, W) as uint8 or float32; raises DatasetError."""
        images, what = _channels_first(images), f"{self.path}: the {split} split"
        if images.size == 0:
            raise DatasetError(f"{what} holds no images")
        return checked_pixels(images, what, mean=self.mean, std=self.std)

    def checked_labels(
        self, labels: NDArray[Any], count: int, split: str, *, classes: int | None = None
    ) -> NDArray[np.int64]:
        """The labels (N,) of `count` images, below `num_classes` or else `classes`; raises
        DatasetError."""
        if count == 0:
            raise DatasetError(f"{self.path}: the {split} split holds no images")
        if labels.ndim != 1 or len(labels) != count:
            raise DatasetError(
                f"{self.path}: the {split} split has {count} images but labels of shape "
                f"{list(labels.shape)}; give one label an image"
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise DatasetError(f"labels must be integers, but got {labels.dtype}")
        low, high = int(labels.min()), int(labels.max())
        known = self.num_classes or classes or high + 1
        if low < 0 or high >= known:
            raise DatasetError(
                f"{self.path}: labels must be in 0..{known - 1}, but the {split} split has "
                f"{low}..{high}; correct the labels or num_classes"
            )
        return labels.astype(np.int64)


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise DatasetError(f"images must have 3 or 4 dimensions, but got {list(images.shape)}")
    if images.shape[1] > 4 and images.shape[3] <= 4:
        return images.transpose(0, 3, 1, 2)
    return images


def _read_idx(source: ArraySource, split: SplitName) -> Arrays:
    images = read_idx(_idx_path(source, split, "images-idx3"), dimensions=3, roots=source.roots)
    return images, _idx_labels(source, split)


def _idx_labels(source: ArraySource, split: SplitName) -> NDArray[np.uint8]:
    return read_idx(_idx_path(source, split, "labels-idx1"), dimensions=1, roots=source.roots)


def _idx_path(source: ArraySource, split: SplitName, kind: str) -> Path:
    folder, name = Path(source.path), f"{IDX_PREFIX[split]}-{kind}-ubyte"
    refuse_outside(folder, source.roots)
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    raise DatasetError(f"{folder} must hold {name} or {name}.gz, but has neither")


def _require_idx(source: ArraySource, split: SplitName, train: Arrays | None) -> None:
    _idx_path(source, split, "images-idx3")
    labels = _idx_labels(source, split)
    source.checked_labels(labels, len(labels), split, classes=_classes(train))


def _read_npz(source: ArraySource, split: SplitName) -> Arrays:
    with open_npz(Path(source.path), source.roots) as file:
        images, labels = _npz_names(source, file, split)
        return file.array(images), file.array(labels)


def _npz_names(source: ArraySource, file: NpzFile, split: SplitName) -> tuple[str, str]:
    """The names of the split's arrays, which are there."""
    names = (f"x_{split}", f"y_{split}")
    if missing := [name for name in names if name not in file]:
        raise DatasetError(
            f"{source.path} must hold x_train, y_train, x_test and y_test; {missing} missing"
        )
    return names


def _require_npz(source: ArraySource, split: SplitName, train: Arrays | None) -> None:
    with open_npz(Path(source.path), source.roots) as file:
        images, labels = _npz_names(source, file, split)
        header = file.header(images)
        count = header.shape[0] if header.shape else 0
        source.checked_labels(file.array(labels), count, split, classes=_classes(train))
        if train is None:
            return
        stored = file.header("x_train")
        if header.dtype != stored.dtype or header.shape[1:] != stored.shape[1:]:
            raise DatasetError(
                f"{source.path}: {images} must be stored as x_train is, {stored.dtype} of shape "
                f"{list(stored.shape[1:])} an image, but is {header.dtype} of "
                f"{list(header.shape[1:])}"
            )
        if header.dtype.kind == "f":
            pixels = source.checked_images(file.array(images), split)
            refuse_other_scale(train[0], pixels, f"{source.path}: {images}")


def _read_image_folder(source: ArraySource, split: SplitName) -> Arrays:
    return image_files.read_images(Path(source.path), split, source.image_shape, source.roots)


def _require_image_folder(source: ArraySource, split: SplitName, train: Arrays | None) -> None:
    image_files.require_readable(Path(source.path), split, source.roots)


def _classes(train: Arrays | None) -> int | None:
    return None if train is None else int(train[1].max()) + 1


def _read_python(source: ArraySource, split: SplitName) -> Arrays:
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


READERS: dict[str, Callable[[ArraySource, SplitName], Arrays]] = {
    "idx": _read_idx,
    "image_folder": _read_image_folder,
    "npz": _read_npz,
    "python": _read_python,
}
