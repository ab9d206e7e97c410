"""Reads image folders: `train/<class>/…` and `test/<class>/…` or `val/<class>/…`. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.data_roots import ANYWHERE, DataRoots
from workers.loaders.errors import DatasetError
from workers.loaders.files import is_stray, open_file, refuse_outside
from workers.loaders.sizes import MAX_BYTES, MAX_FILES

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
FOLDERS = {"train": ("train",), "test": ("test", "val")}
# Of eight bits a channel; in others, PIL cuts off what is above 255.
EIGHT_BITS = {
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV",
}  # fmt: skip
MAX_PIXELS = 80_000_000  # as float32 in three channels, a gigabyte


def split_folder(path: Path, split: str, roots: DataRoots = ANYWHERE) -> Path:
    """The split's folder; raises DatasetError where there is none."""
    refuse_outside(path, roots)
    for name in FOLDERS[split]:
        if (path / name).is_dir():
            refuse_outside(path / name, roots)
            return path / name
    raise DatasetError(f"{path} must hold the folder {' or '.join(FOLDERS[split])}")


def labelled_files(path: Path, split: str, roots: DataRoots = ANYWHERE) -> list[tuple[Path, int]]:
    """The split's image files and their labels: the places of their classes in `train`.

    Raises:
        DatasetError: No images, a class of `train` without any, or one that `train` lacks.
    """
    root, train = split_folder(path, split, roots), split_folder(path, "train", roots)
    classes, found = class_names(train), class_names(root)
    if unknown := sorted(set(found) - set(classes)):
        raise DatasetError(
            f"{root} has the class {unknown[0]!r}, but {train} has not: "
            "every class must have a folder of images in train"
        )
    files = {name: list(_images(root / name, roots)) for name in found}
    empty = [name for name in found if not files[name]]
    if len(empty) == len(found):
        raise DatasetError(f"{root} must hold one folder of images a class, but has no images")
    if empty and split == "train":
        known = ", ".join(sorted(SUFFIXES))
        raise DatasetError(
            f"{root / empty[0]} must hold images ({known}), but holds none: add them, "
            "or remove the folder if it is no class"
        )
    labelled = [(file, classes.index(name)) for name in found for file in files[name]]
    if len(labelled) > MAX_FILES:
        raise DatasetError(f"{root} must hold at most {MAX_FILES} images, but has {len(labelled)}")
    return labelled


def class_names(folder: Path) -> list[str]:
    """The folders in it, sorted, but for hidden ones."""
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and _is_wanted(each))


def read_images(
    path: Path, split: str, shape: Sequence[int] | None, roots: DataRoots = ANYWHERE
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, C, H, W) and labels (N,); scaled to `shape` (C, H, W) if it is given."""
    files = labelled_files(path, split, roots)
    if shape and len(files) * int(np.prod(shape, dtype=object)) > MAX_BYTES:
        raise DatasetError(f"{path}: {len(files)} images of shape {list(shape)} are too large")
    images = [_decode(file, shape, roots) for file, _ in files]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise DatasetError(f"images must have one size, but {path} has {sorted(shapes)[:4]}")
    return np.stack(images), np.array([label for _, label in files])


def require_readable(path: Path, split: str, roots: DataRoots = ANYWHERE) -> None:
    """Raises DatasetError for a file of the split that could not be read; decodes no image."""
    for file, _ in labelled_files(path, split, roots):
        with _opened(file, roots):
            pass


def _is_wanted(path: Path) -> bool:
    return not is_stray(path.name)


def _images(folder: Path, roots: DataRoots) -> Iterator[Path]:
    """The image files below a folder, sorted; links are followed, each folder is seen once."""
    refuse_outside(folder, roots)
    seen: set[str] = set()
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [
            each
            for each in folders
            if not is_stray(each) and os.path.realpath(Path(place, each)) not in seen
        ]
        found += [Path(place, each) for each in names if not is_stray(each)]
    return iter(sorted(each for each in found if each.suffix.lower() in SUFFIXES))


def _decode(path: Path, shape: Sequence[int] | None, roots: DataRoots) -> NDArray[np.uint8]:
    with _opened(path, roots) as image:
        try:
            picture = image.convert("L" if shape and shape[0] == 1 else "RGB")
            if shape:
                picture = picture.resize((shape[2], shape[1]))
            pixels = np.asarray(picture, np.uint8)
        except Exception as error:  # decoders raise what they like
            raise DatasetError(f"{path} is not a readable image: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@contextmanager
def _opened(path: Path, roots: DataRoots) -> Iterator[Image]:
    """The image, of which only the header has been read."""
    from PIL import Image as images

    with open_file(path, roots) as file:
        try:
            image: Any = images.open(file)
        except Exception as error:
            raise DatasetError(f"{path} is not a readable image: {error}") from error
        with image:
            _refuse_unusual(path, image)
            yield image


def _refuse_unusual(path: Path, image: Image) -> None:
    if image.mode not in EIGHT_BITS:
        raise DatasetError(
            f"{path} must have 8 bits a channel, but its mode is {image.mode!r}: convert it "
            "to 8 bits, or give such images as float32 in an .npz file"
        )
    if image.width * image.height > MAX_PIXELS:
        raise DatasetError(
            f"{path} must have at most {MAX_PIXELS} pixels, but has {image.width} x {image.height}"
        )
