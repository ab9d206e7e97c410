"""Pixels reach the network as it was trained, or are refused with what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.workers_tests.test_datasets import npz
from workers.loaders.datasets import Source
from workers.loaders.errors import DatasetError

LABELS = np.arange(6)
BYTES = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4))
UNSCALED = "would reach the network as they are: store pixels of 0..255 as uint8"


def inputs(source: Source) -> torch.Tensor:
    """What the network gets of the training split."""
    return source.read("train").slice(0, 100)[0]


def stored(folder: Path, images: NDArray[Any], **spec: Any) -> Source:
    path = npz(folder, x_train=images, y_train=LABELS).path
    return Source("npz", path, **spec)


@pytest.mark.parametrize(
    ("images", "scale"),
    [
        (BYTES.astype(np.uint8), 255),
        (BYTES > 127, 1),
        (BYTES / 255, 1),
        ((BYTES / 255).astype(np.float16), 1),
        (BYTES.astype(np.float32) / 127.5 - 1, 1),
        (BYTES.astype(np.float32) - 128, 1),
        (np.zeros(BYTES.shape, np.float32), 1),
        (np.random.default_rng(1).gamma(2.0, 9.0, BYTES.shape), 1),
    ],
    ids=["uint8", "bool", "float64", "float16", "-1..1", "centred", "black", "spectrum"],
)
def test_scaled_pixels_reach_the_network_as_stored(
    tmp_path: Path, images: NDArray[Any], scale: float
) -> None:
    wanted = torch.from_numpy(images.astype(np.float32)) / scale
    assert torch.equal(inputs(stored(tmp_path, images)), wanted)


@pytest.mark.parametrize(
    "images",
    [
        *(BYTES.astype(kind) for kind in ("int16", "uint16", "int64", "float32", "float64")),
        BYTES.astype(np.int16) - 128,
        BYTES.astype(np.uint16) * 257,
        BYTES // 16,
        (BYTES // 16).astype(np.float32),
        BYTES * 0.97,
        BYTES // 128,
    ],
    ids=lambda images: f"{images.dtype}:{images.min():g}..{images.max():g}",
)
@pytest.mark.parametrize("std", [(), (0.25,)])
def test_unscaled_pixels_are_refused_whatever_their_type(
    tmp_path: Path, images: NDArray[Any], std: tuple[float, ...]
) -> None:
    with pytest.raises(DatasetError, match=UNSCALED):
        inputs(stored(tmp_path, images, std=std))


def test_unscaled_pixels_are_taken_where_std_is_in_their_units(tmp_path: Path) -> None:
    raw = inputs(stored(tmp_path, BYTES, std=(1.0,)))
    assert torch.equal(raw, torch.from_numpy(BYTES).float())
    normal = inputs(stored(tmp_path, BYTES.astype(np.float32), mean=(128.0,), std=(64.0,)))
    assert torch.equal(normal, (raw - 128) / 64)


def test_bytes_that_are_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="uint8 pixels of 0 and 1 only"):
        inputs(stored(tmp_path, (BYTES > 127).astype(np.uint8)))


@pytest.mark.parametrize("kind", [np.complex64, "S3", "datetime64[s]"])
def test_arrays_that_hold_no_numbers_are_refused(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(DatasetError, match="must hold uint8 or float32 pixels"):
        inputs(stored(tmp_path, BYTES.astype(kind)))


def test_numbers_too_large_for_float32_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not finite"):
        inputs(stored(tmp_path, np.full((6, 1, 2, 2), -1e300)))


@pytest.mark.parametrize("spec", [{"mean": (0.1, 0.2)}, {"std": (0.5, 0.5, 0.5, 0.5)}])
def test_normalisation_of_other_channels_is_refused(tmp_path: Path, spec: Any) -> None:
    with pytest.raises(DatasetError, match="one entry per channel, 3 in"):
        inputs(stored(tmp_path, BYTES.astype(np.uint8), **spec))


def split(folder: Path, x_test: NDArray[Any], x_train: NDArray[Any]) -> None:
    """Checks a test split against a training split."""
    source = npz(folder, x_train=x_train, y_train=LABELS, x_test=x_test, y_test=LABELS)
    source.require("test", source.arrays("train"))


@pytest.mark.parametrize(
    ("x_train", "x_test", "words"),
    [
        (BYTES.astype(np.uint8), BYTES / 255, "stored as x_train is, uint8"),
        (BYTES.astype(np.uint8), BYTES.astype(np.float32), "but is float32"),
        (BYTES.astype(np.uint8), BYTES[:, :1].astype(np.uint8), r"\[3, 4, 4\].*\[1, 4, 4\]"),
        (BYTES / 255, BYTES.astype(np.float64), UNSCALED),
        (BYTES / 255, BYTES / 2550, "scaled and normalised as x_train is"),
        (BYTES / 255, BYTES / 127.5 - 1, "scaled and normalised as x_train is"),
    ],
)
def test_test_split_must_be_stored_and_scaled_as_the_training_split(
    tmp_path: Path, x_train: NDArray[Any], x_test: NDArray[Any], words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        split(tmp_path, x_test, x_train)


def test_test_split_of_the_same_kind_is_accepted(tmp_path: Path) -> None:
    split(tmp_path, BYTES[::-1] / 300, BYTES / 255)
    split(tmp_path, BYTES[::-1].astype(np.uint8), BYTES.astype(np.uint8))


def test_test_labels_beyond_the_training_classes_are_refused(tmp_path: Path) -> None:
    images = BYTES.astype(np.uint8)
    source = npz(tmp_path, x_train=images, y_train=LABELS, x_test=images, y_test=LABELS + 1)
    with pytest.raises(DatasetError, match=r"labels must be in 0\.\.5, but the test split has"):
        source.require("test", source.arrays("train"))


def image_file(folder: Path, mode: str, name: str = "1.png") -> Source:
    path = folder / "train" / "cat" / name
    path.parent.mkdir(parents=True)
    Image.new(mode, (4, 4), 1 if mode in {"1", "I", "I;16", "F"} else 200).save(path)
    return Source("image_folder", str(folder))


@pytest.mark.parametrize(
    ("mode", "name"), [("1", "1.png"), ("L", "1.png"), ("P", "1.png"), ("CMYK", "1.jpg")]
)
def test_image_files_of_eight_bits_are_read_in_any_mode(
    tmp_path: Path, mode: str, name: str
) -> None:
    with Image.open(image_file(tmp_path, mode, name).path + f"/train/cat/{name}") as image:
        wanted = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(Source("image_folder", str(tmp_path)).arrays("train")[0][0], wanted)


@pytest.mark.parametrize(("mode", "name"), [("I;16", "1.png"), ("F", "1.tiff"), ("I", "1.tiff")])
def test_image_files_of_more_than_eight_bits_are_named_and_refused(
    tmp_path: Path, mode: str, name: str
) -> None:
    source = image_file(tmp_path, mode, name)
    for path in tmp_path.rglob("*.tiff"):  # a decoder looks at the bytes, not at the name
        path.rename(path.with_suffix(".png"))
    with pytest.raises(DatasetError, match=r"1\.png must have 8 bits a channel, but its mode is"):
        source.read("train")
