"""What a worker keeps between steps: the same object for the same id, and only the last few."""

from __future__ import annotations

import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from jobs.artifacts import archive_name
from jobs.errors import ArtifactDamaged
from jobs.spec import DatasetSpec
from tests.workers_tests import nets
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_checks import add_model, model_row
from tests.workers_tests.test_datasets import picture
from tests.workers_tests.workshop import Workshop
from workers.library import Library, Recent, dataset_source, stored_blob


class Maker:
    """Makes values that are their keys, and notes each."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def make(self, key: str) -> str:
        self.made.append(key)
        return key


def test_value_is_made_once_and_dropped_when_others_were_used_later() -> None:
    recent, maker = Recent[str](2), Maker()
    for key in ("a", "b", "a", "c", "a", "b"):
        assert recent.get(key, partial(maker.make, key)) == key
    assert maker.made == ["a", "b", "c", "b"]


def test_value_that_could_not_be_made_is_tried_again() -> None:
    recent: Recent[int] = Recent()
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: 1 // 0)
    assert recent.get("a", lambda: 1) == 1


def test_graph_data_and_fit_images_are_made_once(workshop: Workshop) -> None:
    snapshot = workshop.snapshot(workshop.submit())
    library = workshop.library
    assert library.graph(snapshot.model) is library.graph(snapshot.model)
    assert library.data(snapshot) is library.data(snapshot)
    images, labels = library.fit_tensors(snapshot)
    assert images is library.fit_tensors(snapshot)[0]
    assert len(images) == len(labels) == len(library.data(snapshot).splits.fit)


def test_other_seed_gives_other_splits(workshop: Workshop) -> None:
    search = {"calibration_images": 32}
    first, second = (
        workshop.snapshot(workshop.submit(search=search | {"seed": seed})) for seed in (1, 2)
    )
    splits = [workshop.library.data(each).splits.calibration.tolist() for each in (first, second)]
    assert splits[0] != splits[1]


def test_weights_that_were_changed_in_the_store_are_not_loaded(bench: Bench) -> None:
    model = model_row(bench, add_model(bench, "small", nets.weights(nets.small())))
    bench.context.store.local_path(f"models/{model.id}/weights.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactDamaged):
        Library(bench.context).graph(model)


def test_uploaded_npz_is_read_where_it_lies(bench: Bench) -> None:
    file = io.BytesIO()
    np.savez(file, x_train=np.zeros((4, 5, 5), np.uint8), y_train=np.arange(4))
    bench.context.store.put(archive_name("dat_1"), file.getvalue())
    source = dataset_source(bench.context, "dat_1", DatasetSpec(name="data", format="npz"))
    assert len(source.read("train")) == 4


def test_uploaded_image_folder_is_unpacked_once(bench: Bench, tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as pack:
        pack.write(tmp_path / "1.png", "photos/train/cat/1.png")
    bench.context.store.put(archive_name("dat_1"), (tmp_path / "photos.zip").read_bytes())
    spec = DatasetSpec(name="data", format="image_folder", mean=(0.5,), std=(0.5,))
    source = dataset_source(bench.context, "dat_1", spec, image_shape=(3, 2, 2))
    assert source.read("train").images.shape == (1, 3, 2, 2)
    assert (source.mean, source.std) == ((0.5,), (0.5,))
    assert Path(source.path).is_relative_to(bench.settings.home / "datasets" / "dat_1")


def test_blob_is_stored_once_under_its_digest(bench: Bench) -> None:
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    first = stored_blob(bench.context.store, b"", digest)
    assert stored_blob(bench.context.store, b"", digest) == first
    assert bench.context.store.get(first.location) == b""
