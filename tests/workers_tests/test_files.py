"""Only regular files under the roots are opened, and small files that grow large are refused."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from jobs.data_roots import DataRoots
from tests.workers_tests.test_datasets import idx_bytes, npz
from workers.loaders.archives import unpack
from workers.loaders.datasets import Source
from workers.loaders.errors import DatasetError

ZEROS = 80 * 2**20


@contextmanager
def within(megabytes: float, seconds: float) -> Iterator[None]:
    """The block needs no more memory and CPU time than this."""
    tracemalloc.start()
    begun = time.process_time()
    try:
        yield
        taken, peak = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < seconds
    assert peak < megabytes * 2**20


def npy(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """The header of an array."""
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def zeros(start: bytes, count: int = ZEROS, wbits: int = -15) -> bytes:
    """`start` and many zeros, deflated."""
    packer = zlib.compressobj(1, zlib.DEFLATED, wbits)
    parts = [packer.compress(start)]
    parts += [packer.compress(bytes(2**20)) for _ in range(count // 2**20)]
    return b"".join([*parts, packer.flush()])


def packed_npz(folder: Path, start: bytes, count: int = ZEROS) -> Path:
    with (
        zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as pack,
        pack.open("x_train.npy", "w") as member,
    ):
        member.write(start)
        for _ in range(count // 2**20):
            member.write(bytes(2**20))
    with zipfile.ZipFile(folder / "bomb.npz", "a") as pack:
        pack.writestr("y_train.npy", npy((1,)) + b"\0")
    return folder / "bomb.npz"


def honest_npz(folder: Path) -> Path:
    return packed_npz(folder, npy((ZEROS // 1024, 1, 32, 32)))


def boasting_npz(folder: Path) -> Path:
    """Says that it holds far more than it does."""
    return packed_npz(folder, npy((2**40, 1, 32, 32)), 0)


def longer_npz(folder: Path) -> Path:
    """Holds far more than its header says."""
    return packed_npz(folder, npy((4, 1, 32, 32)))


def headed_npz(folder: Path) -> Path:
    """Its array has a header of 200 MB."""
    start = b"\x93NUMPY\x02\x00" + struct.pack("<I", ZEROS)
    return packed_npz(folder, start)


def listing_npz(folder: Path) -> Path:
    """A table of contents of 25 000 empty arrays."""
    path = packed_npz(folder, npy((1, 1)), 0)
    with zipfile.ZipFile(path, "a") as pack:
        for number in range(25_000):
            pack.writestr(str(number), b"")
    return path


NPZ_BOMBS = (honest_npz, boasting_npz, longer_npz, headed_npz, listing_npz)


@pytest.mark.parametrize("make", NPZ_BOMBS, ids=lambda make: make.__name__)
def test_npz_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    with within(50, 1), pytest.raises(DatasetError, match=r"bomb\.npz"):
        Source("npz", str(path)).read("train")


@pytest.mark.parametrize("shape", [(200_000, 32, 32), (4, 2, 2)], ids=["honest", "longer"])
def test_gzip_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    start = bytes([0, 0, 8, 3]) + np.array(shape, ">i4").tobytes()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(zeros(start, wbits=31))
    labels = gzip.compress(idx_bytes(np.zeros(4, np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    with within(50, 1), pytest.raises(DatasetError, match=r"must not grow|is longer than"):
        Source("idx", str(tmp_path)).read("train")


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("train/a/1.png", bytes(ZEROS))


def tar_bomb(path: Path, *, pax: bool = False) -> None:
    info = tarfile.TarInfo("train/a/1.png")
    info.size = ZEROS
    if pax:
        info.type = tarfile.XHDTYPE
    path.write_bytes(zeros(info.tobuf(), wbits=31))


def pax_bomb(path: Path) -> None:
    tar_bomb(path, pax=True)


@pytest.mark.parametrize("make", [zip_bomb, tar_bomb, pax_bomb], ids=lambda make: make.__name__)
def test_archive_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "archive")
    with within(50, 1), pytest.raises(DatasetError, match=r"must not grow|absurd size"):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["archive"]


def test_files_left_by_a_mac_are_not_unpacked_and_hide_no_wrapper(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive", "w") as pack:
        for name in (
            "photos/train/a/1.png",
            "__MACOSX/photos/train/a/._1.png",
            "photos/.DS_Store",
        ):
            pack.writestr(name, b"x")
    folder = unpack(tmp_path / "archive", tmp_path / "out")
    assert folder == tmp_path / "out" / "photos"
    assert [each.name for each in folder.rglob("*")] == ["train", "a", "1.png"]


def test_packed_data_below_the_free_size_may_shrink_as_it_likes(tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "d.npz", x_train=np.zeros((10_000, 32, 32), np.uint8), y_train=np.arange(10_000)
    )
    assert len(Source("npz", str(tmp_path / "d.npz")).read("train")) == 10_000


def test_array_in_fortran_order_is_read_in_its_own(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    source = npz(tmp_path, x_train=np.asfortranarray(images), y_train=np.arange(2))
    assert np.array_equal(source.arrays("train")[0], images)


@pytest.mark.parametrize("format", ["npz", "idx", "image_folder"])
def test_pipe_in_place_of_data_is_refused_and_not_waited_for(tmp_path: Path, format: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    path = tmp_path if format == "idx" else tmp_path / "pipe"
    with pytest.raises(DatasetError, match=r"must be a regular file|must hold the folder"):
        Source(format, str(path)).read("train")


def test_device_is_refused_unopened() -> None:
    with pytest.raises(DatasetError, match="/dev/zero must be a regular file, but is a pipe, "):
        Source("npz", "/dev/zero").read("train")


@pytest.mark.parametrize("format", ["npz", "idx", "image_folder"])
def test_paths_outside_the_roots_are_refused_alike_whether_or_not_they_exist(
    tmp_path: Path, format: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (tmp_path / "there.npz").touch()
    said = set()
    for path in ("there.npz", "missing.npz", "root/../there.npz", "root/link/there.npz"):
        source = Source(format, f"{tmp_path}/{path}", roots=DataRoots((root,)))
        with pytest.raises(DatasetError) as refused:
            source.read("train")
        said.add(refused.value.detail.replace(str(Path(source.path)), "PATH"))
    assert len(said) == 1
