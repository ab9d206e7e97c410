"""The artifact store: whole files or none, on a local folder and on a remote address."""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from jobs import artifacts
from jobs.artifacts import ArtifactStore
from jobs.columns import utc_now
from jobs.errors import ArtifactDamaged, ArtifactError, ArtifactNotFound, ArtifactUnavailable

DATA = b"weights" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Unreadable(io.BytesIO):
    """An upload that breaks off."""

    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionError("the sender is gone")


@pytest.fixture(params=["local", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    urls = {
        "local": str(tmp_path / "store"),
        "file": (tmp_path / "store").as_uri(),
        "memory": f"memory://{tmp_path.name}",
    }
    yield ArtifactStore(urls[request.param], cache=tmp_path / "cache")
    fsspec.filesystem("memory").store.clear()


class TestArtifactStore:
    def test_what_is_put_can_be_got(self, store: ArtifactStore) -> None:
        stored = store.put("jobs/job_1/plan.json", DATA)
        assert (stored.location, stored.size) == ("jobs/job_1/plan.json", len(DATA))
        assert stored.sha256 == SHA256
        assert store.get(stored.location, sha256=SHA256) == DATA

    def test_a_stream_can_be_put_and_opened(self, store: ArtifactStore) -> None:
        assert store.put("a", io.BytesIO(DATA), sha256=SHA256).size == len(DATA)
        with store.open("a") as file:
            assert file.read(7) == b"weights"

    def test_what_lies_in_a_folder_is_listed_with_its_size_and_age(
        self, store: ArtifactStore
    ) -> None:
        before = utc_now() - timedelta(seconds=5)
        for name in ("jobs/job_1/plan.json", "jobs/job_1/work/a", "jobs/job_2/plan.json"):
            store.put(name, DATA)
        assert store.folders("jobs") == ["job_1", "job_2"]
        found = store.files("jobs/job_1")
        assert [(each.name, each.size) for each in found] == [
            ("jobs/job_1/plan.json", len(DATA)),
            ("jobs/job_1/work/a", len(DATA)),
        ]
        assert all(each.modified and each.modified > before for each in found)
        assert store.folders("models") == []
        assert store.files("models") == []

    def test_a_folder_goes_with_all_that_is_in_it(self, store: ArtifactStore) -> None:
        for name in ("jobs/job_1/plan.json", "jobs/job_1/work/a", "jobs/job_11/plan.json"):
            store.put(name, DATA)
        store.local_path("jobs/job_1/work/a")
        for _ in range(2):
            store.remove_folder("jobs/job_1")
        assert store.folders("jobs") == ["job_11"]
        assert store.cache is None or not list(store.cache.glob("jobs/job_1/**/*"))

    def test_a_second_file_replaces_the_first(self, store: ArtifactStore) -> None:
        store.put("a", b"one")
        store.put("a", b"two")
        assert store.get("a") == b"two"

    def test_a_broken_upload_leaves_what_was_there(self, store: ArtifactStore) -> None:
        store.put("a", b"one")
        with pytest.raises(ConnectionError):
            store.put("a", Unreadable())
        assert store.get("a") == b"one"

    def test_bytes_with_another_hash_are_not_stored(self, store: ArtifactStore) -> None:
        with pytest.raises(ArtifactDamaged, match=f"must have SHA-256 {SHA256}, but got"):
            store.put("a", b"other", sha256=SHA256)
        assert not store.exists("a")

    def test_damage_is_noticed_when_read(self, store: ArtifactStore) -> None:
        store.put("a", b"other")
        with pytest.raises(ArtifactDamaged):
            store.get("a", sha256=SHA256)
        with pytest.raises(ArtifactDamaged):
            store.local_path("a", sha256=SHA256)

    def test_a_missing_file_is_not_found(self, store: ArtifactStore) -> None:
        assert not store.exists("a")
        for read in (store.get, store.open, store.local_path):
            with pytest.raises(ArtifactNotFound, match="artifact must exist, but got 'a'"):
                read("a")

    def test_a_removed_file_is_gone(self, store: ArtifactStore) -> None:
        store.put("a", DATA)
        store.remove("a")
        store.remove("a")
        assert not store.exists("a")

    def test_a_local_path_has_the_present_bytes(self, store: ArtifactStore) -> None:
        store.put("a/b", DATA)
        assert store.local_path("a/b", sha256=SHA256).read_bytes() == DATA
        assert store.local_path("a/b", sha256=SHA256).read_bytes() == DATA
        store.put("a/b", b"new")
        assert store.local_path("a/b").read_bytes() == b"new"

    @pytest.mark.parametrize(
        "name", ["", "/etc/passwd", "../a", "a/../b", "a//b", ".hidden", "a/"]
    )
    def test_a_name_that_leads_elsewhere_is_refused(self, store: ArtifactStore, name: str) -> None:
        with pytest.raises(ArtifactError, match="must be a plain relative path, but got"):
            store.put(name, DATA)


def test_nothing_is_left_beside_a_local_file(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    store.put("a", DATA)
    with pytest.raises(ConnectionError):
        store.put("b", Unreadable())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_every_kind_of_file_has_its_place(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    names = [
        artifacts.weights_name("mdl_1"),
        artifacts.archive_name("dat_1"),
        artifacts.skeleton_name(SHA256),
        artifacts.job_file_name("job_1", "plan.json"),
    ]
    assert [store.put(name, DATA).location for name in names] == names


def test_parts_of_a_file_are_told_apart_and_an_empty_folder_is_found(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    (tmp_path / "models/mdl_1").mkdir(parents=True)
    assert [each.name for each in store.files("models/mdl_1")] == ["models/mdl_1"]
    (tmp_path / "models/mdl_1/.part-x1").write_bytes(b"half")
    (part,) = store.files("models/mdl_1")
    assert part.is_staged
    store.remove(part.name)
    assert not list((tmp_path / "models/mdl_1").iterdir())


@pytest.mark.parametrize("name", ["../x", "a/../x", "/x", ".hidden", ".part-../x", "a/.part-"])
def test_a_name_does_not_leave_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="plain relative path"):
        ArtifactStore(str(tmp_path)).remove_folder(name)


class Refusing(MemoryFileSystem):  # type: ignore[misc]
    """A remote store whose client raises errors of its own."""

    protocol = "refusing"
    error: Exception = RuntimeError("SlowDown: reduce your request rate")

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error

    put_file = rm_file = isfile = _open = _refuse


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.put("a", b"x"),
        lambda store: store.get("a"),
        lambda store: store.open("a"),
        lambda store: store.exists("a"),
        lambda store: store.remove("a"),
        lambda store: store.local_path("a"),
    ],
    ids=["put", "get", "open", "exists", "remove", "local_path"],
)
@pytest.mark.parametrize(
    "error", [RuntimeError("SlowDown: reduce your request rate"), PermissionError(13, "SlowDown")]
)
def test_whatever_a_remote_store_raises_says_that_it_is_unavailable(
    use: Callable[[ArtifactStore], object], error: Exception, tmp_path: Path
) -> None:
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    Refusing.error = error
    with pytest.raises(ArtifactUnavailable, match="SlowDown"):
        use(ArtifactStore("refusing://bucket", cache=tmp_path))


def test_full_disk_keeps_its_number(tmp_path: Path) -> None:
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    Refusing.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as raised:
        ArtifactStore("refusing://bucket", cache=tmp_path).put("a", b"x")
    assert raised.value.errno == errno.ENOSPC
