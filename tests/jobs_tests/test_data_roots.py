"""Data roots: paths lie under them, as written and with every link followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.data_roots import ANYWHERE, DataRoots, data_roots
from jobs.errors import SpecError
from jobs.settings import Settings
from jobs.spec import DatasetSpec, check_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, a link to it, and links to what lies outside."""
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "data.npz").touch()
    (folder / "inside").symlink_to(folder / "data.npz")
    (folder / "outside").symlink_to("/etc/hostname")
    (folder / "nowhere").symlink_to("/etc/no-such-file")
    (folder / "up").symlink_to(tmp_path)
    (tmp_path / "root-2").mkdir()
    return folder


@pytest.mark.parametrize("path", ["", "data.npz", "inside", "missing/file.npz", "a/../data.npz"])
def test_what_lies_under_a_root_is_held_whether_or_not_it_exists(root: Path, path: str) -> None:
    assert DataRoots((root,)).hold(f"{root}/{path}")


@pytest.mark.parametrize(
    "path", ["outside", "nowhere", "up", "up/root-2", "up/no-such-file", "..", "../root-2"]
)
def test_what_leaves_a_root_is_not_held(root: Path, path: str) -> None:
    assert not DataRoots((root,)).hold(f"{root}/{path}")


def test_a_root_may_be_a_link_itself(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert DataRoots((link,)).hold(link / "data.npz")
    assert DataRoots((link,)).hold(root / "data.npz")


def test_anywhere_holds_all_and_no_root_holds_nothing() -> None:
    assert ANYWHERE.hold("/etc/hostname")
    assert not DataRoots(()).hold("/etc/hostname")


def test_with_keys_only_named_roots_may_be_read(tmp_path: Path) -> None:
    bare = Settings(home=tmp_path, auth="off", data_roots=())
    named = Settings(home=tmp_path, auth="off", data_roots=(tmp_path,))
    assert data_roots(bare).folders is None
    assert data_roots(bare, auth="on").folders == ()
    assert data_roots(Settings(home=tmp_path, auth="on", data_roots=())).folders == ()
    assert data_roots(named).folders == data_roots(named, auth="on").folders == (tmp_path,)


def test_a_refusal_says_the_same_of_what_exists_and_what_does_not(root: Path) -> None:
    said = set()
    for path in ("/etc/hostname", "/etc/no-such-file", f"{root}/outside", f"{root}/nowhere"):
        spec = DatasetSpec(name="d", format="npz", path=path)
        with pytest.raises(SpecError) as refused:
            check_path(spec, DataRoots((root,)))
        said.add(str(refused.value).replace(repr(path), "PATH"))
    assert said == {f"path must lie under a data root of this server ({root}), but got PATH"}
