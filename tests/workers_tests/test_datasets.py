"""Data sets: each format is read a split at a time, and what is wrong is said with its place."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.workers_tests.nets import HERE
from workers.loaders.datasets import Images, Source
from workers.loaders.errors import DatasetError

NUMBERS = f"{HERE}:numbers"


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.tobytes()


def write_idx(folder: Path, *, packed: bool = True, prefix: str = "train") -> Path:
    images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    parts = {"images-idx3": images, "labels-idx1": np.array([1, 0], np.uint8)}
    for name, array in parts.items():
        path, data = folder / f"{prefix}-{name}-ubyte", idx_bytes(array)
        if packed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
        else:
            path.write_bytes(data)
    return folder


def npz(path: Path, **arrays: Any) -> Source:
    np.savez(path / "data.npz", **arrays)
    return Source("npz", str(path / "data.npz"))


def picture(path: Path, size: tuple[int, int] = (4, 6), color: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_is_read_packed_or_not(tmp_path: Path, packed: bool) -> None:
    images = Source("idx", str(write_idx(tmp_path, packed=packed))).read("train")
    assert images.images.shape == (2, 1, 3, 3)
    assert images.images.dtype == torch.uint8
    assert images.labels.tolist() == [1, 0]


def test_idx_test_images_have_their_own_files(tmp_path: Path) -> None:
    source = Source("idx", str(write_idx(tmp_path, prefix="t10k")))
    assert len(source.read("test")) == 2
    with pytest.raises(DatasetError, match=r"must hold train-images-idx3-ubyte or .*\.gz"):
        source.read("train")


def test_truncated_idx_says_how_much_is_there(tmp_path: Path) -> None:
    path = write_idx(tmp_path, packed=False) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DatasetError, match=r"is truncated: 13 bytes for shape \[2, 3, 3\]"):
        Source("idx", str(tmp_path)).read("train")


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x08\x01\x00\x00\x00\x01", b"x" * 40])
def test_file_that_is_no_idx_is_named(tmp_path: Path, data: bytes) -> None:
    (write_idx(tmp_path, packed=False) / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(DatasetError, match="is not an IDX file of 3 dimensions"):
        Source("idx", str(tmp_path)).read("train")


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    path = write_idx(tmp_path) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DatasetError, match="the train split cannot be read"):
        Source("idx", str(tmp_path)).read("train")


def test_npz_is_read_in_any_layout(tmp_path: Path) -> None:
    last = np.zeros((5, 8, 9, 3), np.uint8)
    labels = np.arange(5)
    source = npz(tmp_path, x_train=last, y_train=labels, x_test=last[..., 0], y_test=labels)
    assert source.read("train").images.shape == (5, 3, 8, 9)
    assert source.read("test").images.shape == (5, 1, 8, 9)


def test_npz_without_its_arrays_names_them(tmp_path: Path) -> None:
    source = npz(tmp_path, x_train=np.zeros((5, 8, 8)), labels=np.arange(5))
    with pytest.raises(DatasetError, match=r"\['y_train'\] missing"):
        source.read("train")


def test_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    source = npz(tmp_path, x_train=objects, y_train=np.arange(2))
    with pytest.raises(DatasetError, match="cannot be read"):
        source.read("train")


@pytest.mark.parametrize("data", [b"PK\x03\x04 cut", b"no archive"])
def test_file_that_is_no_npz_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(data)
    with pytest.raises(DatasetError, match="cannot be read"):
        Source("npz", str(tmp_path / "data.npz")).read("train")


def test_single_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros(3))
    with pytest.raises(DatasetError, match="cannot be read"):
        Source("npz", str(tmp_path / "data.npy")).read("train")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        Source("npz", str(tmp_path / "nothing.npz")).read("train")


def test_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"\['idx', 'image_folder', 'npz', 'python'\]"):
        Source("csv", "/data").read("train")


def test_image_folder_takes_classes_from_the_training_folders(tmp_path: Path) -> None:
    picture(tmp_path / "train/cat/1.png")
    picture(tmp_path / "train/dog/deep/2.jpg", color="blue")
    picture(tmp_path / "val/dog/3.png", color="blue")
    (tmp_path / "train/dog/notes.txt").write_text("not an image")
    source = Source("image_folder", str(tmp_path))
    train, test = source.read("train"), source.read("test")
    assert train.labels.tolist() == [0, 1]
    assert test.labels.tolist() == [1]
    assert train.images.shape == (2, 3, 6, 4)
    assert train.images[0, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_image_files_are_scaled_to_what_the_model_takes(tmp_path: Path, channels: int) -> None:
    picture(tmp_path / "train/cat/1.png")
    picture(tmp_path / "train/cat/2.png", size=(9, 9))
    source = Source("image_folder", str(tmp_path), image_shape=(channels, 5, 7))
    assert source.read("train").images.shape == (2, channels, 5, 7)


def test_image_files_of_several_sizes_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "train/cat/1.png")
    picture(tmp_path / "train/cat/2.png", size=(9, 9))
    with pytest.raises(DatasetError, match="images must have one size"):
        Source("image_folder", str(tmp_path)).read("train")


def test_damaged_image_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "train/cat/1.png")
    (tmp_path / "train/cat/1.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"1\.png is not a readable image"):
        Source("image_folder", str(tmp_path)).read("train")


def test_folder_without_images_or_splits_is_refused(tmp_path: Path) -> None:
    source = Source("image_folder", str(tmp_path))
    with pytest.raises(DatasetError, match="must hold the folder train"):
        source.read("train")
    (tmp_path / "train/cat").mkdir(parents=True)
    with pytest.raises(DatasetError, match="has no images"):
        source.read("train")
    with pytest.raises(DatasetError, match="must hold the folder test or val"):
        source.read("test")


def python_source(function: str, **kwargs: Any) -> Source:
    name = f"{HERE}:{function}"
    return Source("python", name, kwargs=kwargs, allow=[name])


def test_function_is_called_with_the_split_and_its_arguments() -> None:
    images = python_source("stripes", count=7).read("train")
    assert images.images.shape == (7, 1, 12, 12)


def test_function_that_is_not_allowed_is_not_called() -> None:
    with pytest.raises(DatasetError, match=r"allow-list.*secateur up --allow"):
        Source("python", f"{HERE}:stripes", allow=[]).read("train")


def test_function_that_fails_is_quoted() -> None:
    with pytest.raises(DatasetError, match="failed on the train split: no train today"):
        python_source("unreadable").read("train")


@pytest.mark.parametrize(
    ("shape", "words"),
    [([0, 2, 2], "holds no images"), ([3, 2], r"must have 3 or 4 dimensions, but got \[3, 2\]")],
)
def test_images_of_another_shape_are_refused(shape: list[int], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        python_source("numbers", shape=shape).read("train")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 2], "2 images but labels of shape"),
        ([[0], [1]], "give one label an image"),
        ([0.5, 1.0], "labels must be integers, but got float64"),
        ([0, -1], r"labels must be in 0\.\.0, but the train split has -1\.\.0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: Any, words: str) -> None:
    source = npz(tmp_path, x_train=np.zeros((2, 4, 4), np.uint8), y_train=np.array(labels))
    with pytest.raises(DatasetError, match=words):
        source.read("train")


def test_labels_above_the_number_of_classes_are_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, x_train=np.zeros((2, 4, 4)), y_train=np.array([0, 3])).path
    assert Source("npz", path, num_classes=4).read("train").labels.tolist() == [0, 3]
    with pytest.raises(DatasetError, match=r"labels must be in 0\.\.2, .* correct the labels"):
        Source("npz", path, num_classes=3).read("train")


def test_pixels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    pixels = np.full((2, 4, 4), np.nan)
    with pytest.raises(DatasetError, match="pixels that are not finite"):
        npz(tmp_path, x_train=pixels, y_train=np.arange(2)).read("train")


def test_bytes_become_parts_of_one_and_floats_stay() -> None:
    labels = torch.zeros(1, dtype=torch.int64)
    assert Images(torch.tensor([[[[255]]]], dtype=torch.uint8), labels).batch(
        torch.tensor([0])
    ).tolist() == [[[[1.0]]]]
    assert Images(torch.tensor([[[[2.5]]]]), labels).batch(torch.tensor([0])).item() == 2.5


@pytest.mark.parametrize(("std", "expected"), [((0.5,), 1.0), ((), 0.5)])
def test_mean_and_std_normalise_per_channel(std: tuple[float, ...], expected: float) -> None:
    pixels = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
    images = Images(pixels, torch.zeros(1, dtype=torch.int64), mean=(0.5,), std=std)
    assert images.batch(torch.tensor([0])).item() == pytest.approx(expected)


def test_slice_stops_at_the_last_image() -> None:
    images = Images(torch.rand(5, 1, 2, 2), torch.arange(5))
    inputs, labels = images.slice(3, 100)
    assert labels.tolist() == [3, 4]
    assert len(inputs) == 2


def test_std_alone_divides() -> None:
    images = Images(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), torch.zeros(1), (), (0.5,))
    assert images.batch(torch.tensor([0])).unique().tolist() == [2.0]


def test_missing_test_split_is_noticed_without_reading_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", x_train=np.zeros((4, 2, 2), np.uint8), y_train=np.arange(4))
    (tmp_path / "folder" / "train").mkdir(parents=True)
    for source in (
        Source("npz", str(tmp_path / "half.npz")),
        Source("image_folder", str(tmp_path / "folder")),
        Source("idx", str(tmp_path)),
    ):
        with pytest.raises(DatasetError, match="must hold"):
            source.require("test")
