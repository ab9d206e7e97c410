"""Archives are unpacked once, and refused where they would write elsewhere or too much."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.loaders import archives
from workers.loaders.archives import unpack
from workers.loaders.errors import DatasetError

Files = dict[str, bytes]


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as pack:
        for name, data in files.items():
            pack.writestr(name, data)
    return path


def tarred(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz") as pack:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            pack.addfile(info, io.BytesIO(data))
    return path


def tar_of(path: Path, member: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as pack:
        pack.addfile(member)
    return path


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_files_are_unpacked_into_the_folder(
    tmp_path: Path, pack: Callable[[Path, Files], Path]
) -> None:
    files = {"train/a/1.png": b"one", "test/a/2.png": b"two"}
    folder = unpack(pack(tmp_path / "archive", files), tmp_path / "out")
    assert folder == tmp_path / "out"
    assert (folder / "train/a/1.png").read_bytes() == b"one"
    assert (folder / "test/a/2.png").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("name", "inner"), [("photos/train/1.png", "photos"), ("train/1.png", "."), ("1.png", ".")]
)
def test_single_wrapping_folder_is_entered_but_not_a_split(
    tmp_path: Path, name: str, inner: str
) -> None:
    folder = unpack(zipped(tmp_path / "archive", {name: b"x"}), tmp_path / "out")
    assert folder == tmp_path / "out" / inner


def test_unpacked_archive_is_not_unpacked_again(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "archive", {"a": b"1", "b": b"2"})
    (unpack(archive, tmp_path / "out") / "a").write_bytes(b"kept")
    archive.unlink()
    assert (unpack(archive, tmp_path / "out") / "a").read_bytes() == b"kept"


def test_unpacking_that_was_cut_off_begins_anew(tmp_path: Path) -> None:
    (tmp_path / ".part-died").mkdir()
    (tmp_path / ".part-died" / "half").touch()
    folder = unpack(zipped(tmp_path / "archive", {"a": b"1", "b": b"2"}), tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil"])
def test_tar_entries_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack(tarred(tmp_path / "archive", {name: b"x"}), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_absolute_tar_entries_stay_inside(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    unpack(tarred(tmp_path / "archive", {f"{evil}": b"x"}), tmp_path / "out")
    assert not evil.exists()


def test_zip_entries_that_climb_stay_inside(tmp_path: Path) -> None:
    unpack(zipped(tmp_path / "archive", {"../evil": b"x"}), tmp_path / "out")
    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "out" / "evil").exists()


def test_tar_links_to_the_outside_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack(tar_of(tmp_path / "archive", link), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tar_devices_are_refused(tmp_path: Path) -> None:
    device = tarfile.TarInfo("null")
    device.type = tarfile.CHRTYPE
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack(tar_of(tmp_path / "archive", device), tmp_path / "out")


def test_zip_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as pack:
        pack.writestr(link, "/etc/passwd")
    with pytest.raises(DatasetError, match="it holds links"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_tar_that_would_unpack_to_an_absurd_size_is_refused(tmp_path: Path) -> None:
    hollow = tarfile.TarInfo("hollow")
    hollow.pax_headers = {"GNU.sparse.realsize": str(archives.MAX_BYTES + 1)}
    with pytest.raises(DatasetError, match=f"it would unpack to {archives.MAX_BYTES + 1} bytes"):
        unpack(tar_of(tmp_path / "archive", hollow), tmp_path / "out")


def test_zip_that_would_unpack_to_an_absurd_size_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "archive", {f"bomb-{index}": b"x" for index in range(6)})
    data = bytearray(archive.read_bytes())
    entry = data.index(b"PK\x01\x02")
    while entry >= 0:
        data[entry + 24 : entry + 28] = b"\xfe\xff\xff\xff"
        entry = data.find(b"PK\x01\x02", entry + 1)
    archive.write_bytes(data)
    with pytest.raises(DatasetError, match="it would unpack to 25769803764 bytes in 6 files"):
        unpack(archive, tmp_path / "out")


def test_damaged_zip_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("a", bytes(range(256)) * 100)
    data = bytearray((tmp_path / "archive").read_bytes())
    data[40:60] = b"\xff" * 20
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 truncated", b"text"])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(DatasetError, match="neither a zip nor a tar"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_truncated_tar_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "archive", {"a": bytes(range(256)) * 4000})
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
