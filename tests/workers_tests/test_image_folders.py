"""Image folders: every class is meant, every file is an image, and nothing else is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.data_roots import DataRoots
from tests.workers_tests.test_datasets import picture
from workers.loaders.datasets import Source
from workers.loaders.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of one image each, in both splits."""
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        picture(tmp_path / "data" / place / "1.png")
    return tmp_path / "data"


def labels(folder: Path, split: str = "train") -> list[int]:
    source = Source("image_folder", str(folder))
    found = source.arrays("test" if split == "test" else "train")[1]
    return [int(label) for label in found]


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000", "lost+found", "._cat"]
)
def test_hidden_folders_are_no_classes(folder: Path, name: str) -> None:
    picture(folder / "train" / name / "0.png")
    picture(folder / "test" / name / "0.png")
    assert labels(folder) == labels(folder, "test") == [0, 1]


@pytest.mark.parametrize(
    "name", ["._1.png", ".1.png", ".ipynb_checkpoints/1.png", "@eaDir/1.png", "Thumbs.db"]
)
def test_hidden_files_are_no_images(folder: Path, name: str) -> None:
    path = folder / "train" / "cat" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no image")
    assert labels(folder) == [0, 1]


def test_training_class_without_images_is_named(folder: Path) -> None:
    (folder / "train" / "bird").mkdir()
    with pytest.raises(DatasetError, match=r"train/bird must hold images .* but holds none"):
        labels(folder)


def test_test_class_that_training_lacks_is_named(folder: Path) -> None:
    picture(folder / "test" / "bird" / "1.png")
    with pytest.raises(DatasetError, match="has the class 'bird', but .*train has not"):
        Source("image_folder", str(folder)).require("test")


def test_training_class_that_the_test_split_lacks_moves_no_label(folder: Path) -> None:
    (folder / "test" / "cat" / "1.png").unlink()
    (folder / "test" / "cat").rmdir()
    assert labels(folder, "test") == [1]


def test_links_are_followed_and_circles_end(folder: Path) -> None:
    picture(folder.parent / "elsewhere" / "2.png")
    (folder / "train" / "cat" / "more").symlink_to(folder.parent / "elsewhere")
    (folder / "train" / "cat" / "round").symlink_to(folder / "train" / "cat")
    assert labels(folder) == [0, 0, 1]


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "folder"])
def test_entry_that_is_no_regular_file_is_refused_and_not_waited_for(
    folder: Path, make: object
) -> None:
    (os.mkfifo if make is os.mkfifo else os.mkdir)(folder / "train" / "cat" / "2.png")
    if make is os.mkfifo:
        with pytest.raises(DatasetError, match=r"2\.png must be a regular file, but is a pipe"):
            labels(folder)
    else:
        assert labels(folder) == [0, 1]


@pytest.mark.parametrize("target", ["secret.png", "nothing.png"])
@pytest.mark.parametrize("place", ["train/cat/2.png", "train/dog/link/2.png"])
def test_links_that_leave_the_roots_are_refused_whether_or_not_the_file_exists(
    folder: Path, target: str, place: str
) -> None:
    picture(folder.parent / "outside" / "secret.png")
    path = folder / place
    if path.parent.exists():
        path.symlink_to(folder.parent / "outside" / target)
    else:
        path.parent.symlink_to(folder.parent / "outside")
    source = Source("image_folder", str(folder), roots=DataRoots((folder,)))
    with pytest.raises(DatasetError, match="must lie under a data root of this server"):
        source.read("train")
