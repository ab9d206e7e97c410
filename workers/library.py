"""Keeps the models and data sets that a worker process used last, traced and ready."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from safetensors.torch import load
from torch import Tensor

from jobs.artifacts import ArtifactStore, archive_name, skeleton_name, weights_name
from jobs.data_roots import data_roots
from jobs.spec import DatasetSpec, JobSpec, ModelSpec
from jobs.tables import Dataset, Model
from search.constraints import Constraints, constrained
from search.graph import PruningGraph, trace
from search.graph.pruning_graph import frozen_by
from search.lineage import Origin
from search.plan import Plan
from search.quantization import Format
from search.skeleton import SkeletonFactory
from search.splits import Splits, split_indices
from workers.context import Context
from workers.loaders.datasets import Images, Source
from workers.loaders.feed import Feed
from workers.loaders.models import example_inputs, load_model
from workers.loaders.sources import Upload
from workers.memory import Memory
from workers.results import Blob
from workers.rounds import LONGEST_WALL_S, keep_rounds, rounds_of
from workers.snapshot import Snapshot

KEPT = 4
VALIDATION_IMAGES = 2000
T = TypeVar("T")


class Recent(Generic[T]):
    """The values made last, by key; the oldest one is dropped."""

    def __init__(self, size: int = KEPT) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The kept value, or a new one."""
        if key not in self._values:
            self._values[key] = make()
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]


@dataclass(frozen=True)
class Data:
    """The training data of a job, cut into its splits."""

    images: Images
    splits: Splits
    source: Source


class Library:
    """Loads by id what a step needs. Models and data sets never change once they are ready."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._graphs: Recent[PruningGraph] = Recent()
        self._factories: Recent[SkeletonFactory] = Recent()
        self._data: Recent[Data] = Recent(2)
        self._fit: Recent[tuple[Tensor, Tensor]] = Recent(1)
        self._scores: Recent[dict[str, Tensor]] = Recent(64)
        self._origins: Recent[Origin] = Recent(2)
        self._memories: Recent[Memory] = Recent()

    def memory(self, job_id: str) -> Memory:
        """What this process remembers of a job; of the last four, that is."""
        return self._memories.get(job_id, Memory)

    def graph(self, model: Model) -> PruningGraph:
        """The traced network; `graph.model` is the dense model and must not be changed.

        Its groups are those of the model's report: what the inspection verified is taken over.
        """
        return self._graphs.get(model.id, lambda: self._traced(model))

    def job_graph(self, snapshot: Snapshot) -> PruningGraph:
        """The traced network of a job, in which what the job leaves alone is frozen.

        Raises:
            ConfigError: the job's constraints exclude each other, or name no layer.
        """
        return constrained(self.graph(snapshot.model), constraints_of(snapshot.spec))

    def skeleton(
        self, model: Model, plan: Plan, *, batch_size: int, form: Format | None = None
    ) -> Blob:
        """The plan's skeleton, in the store; `form` is that of its layers in int8."""
        made = self.skeletons(model, batch_size=batch_size).derive(plan, form)
        return stored_blob(self._context.store, made.onnx_bytes, made.digest)

    def skeletons(self, model: Model, *, batch_size: int) -> SkeletonFactory:
        """What derives the skeletons of a model."""
        key = (model.id, batch_size)
        return self._factories.get(key, lambda: self._factory(model, batch_size))

    def data(self, snapshot: Snapshot) -> Data:
        """The training images and splits of a job."""
        return self._data.get(_data_key(snapshot), lambda: self._read(snapshot.spec, snapshot))

    def fit_tensors(self, snapshot: Snapshot) -> tuple[Tensor, Tensor]:
        """Network inputs (N, …) and labels (N,) of the images to fit on."""
        data = self.data(snapshot)
        return self._fit.get(_data_key(snapshot), lambda: data.images.select(data.splits.fit))

    def scores(self, location: str) -> Mapping[str, Tensor]:
        """The importance of every unit, as the preparation stored it."""
        return self._scores.get(location, lambda: load(self._context.store.get(location)))

    def origin(self, snapshot: Snapshot, plan: Plan, checkpoint: str) -> Origin:
        """What the children of a trained node are cut from; `plan` is the node's."""

        def read() -> Origin:
            graph = self.job_graph(snapshot)
            return Origin.of(graph.model, graph, plan, load(self._context.store.get(checkpoint)))

        return self._origins.get((snapshot.model.id, checkpoint), read)

    def _traced(self, row: Model) -> PruningGraph:
        spec = ModelSpec.model_validate(row.spec)
        path = self._context.store.local_path(weights_name(row.id), sha256=row.weights_digest)
        model = load_model(spec, path, allow=self._context.settings.allow)
        store = self._context.store
        rounds = rounds_of(store, row)
        graph = trace(
            model,
            example_inputs(model, spec),
            time_limit_s=self._context.settings.inspection_limit_s,
            wall_limit_s=LONGEST_WALL_S,
            verdicts=rounds.known(),
        )
        if graph.verdicts.entries != rounds.known().entries:  # another version: for other workers
            keep_rounds(store, row.id, rounds.with_verdicts(graph.verdicts))
        return _as_reported(graph, row.report or {})

    def _factory(self, row: Model, batch_size: int) -> SkeletonFactory:
        """The factory as another process left it in the store, or a new one, left there."""
        graph, store = self.graph(row), self._context.store
        location = f"models/{row.id}/skeletons-2-{batch_size}.json"  # 2: with names of layers
        if store.exists(location):
            text = store.get(location).decode()
            return SkeletonFactory.from_json(graph, text, batch_size=batch_size)
        factory = SkeletonFactory(graph, batch_size=batch_size)
        store.put(location, factory.to_json().encode())
        return factory

    def _read(self, spec: JobSpec, snapshot: Snapshot) -> Data:
        source = job_source(self._context, snapshot.dataset, snapshot.model)
        images = source.read("train")
        splits = split_indices(
            len(images),
            seed=spec.search.seed,
            calibration=spec.search.calibration_images,
            validation=VALIDATION_IMAGES,
        )
        return Data(images, splits, source)


def constraints_of(spec: JobSpec) -> Constraints:
    """The constraints of a job as the library takes them."""
    given = spec.constraints
    return Constraints(
        exclude=given.exclude,
        prune_frozen=given.prune_frozen,
        multiple=given.multiple,
        max_parameters=given.most_parameters,
        max_memory_mb=given.max_memory_mb,
        batch_size=spec.target.batch_size,
        blocks=spec.search.blocks,
    )


def _as_reported(graph: PruningGraph, report: Mapping[str, Any]) -> PruningGraph:
    """The graph without what the report calls frozen: a job prunes what its user was told."""
    told = {group["name"]: group for group in report.get("groups", ())}
    open_groups = (group for group in graph.groups if group.status != "frozen")
    reasons = {
        group.name: told[group.name]["reason"]
        for group in open_groups
        if told.get(group.name, {}).get("status") == "frozen"
    }
    return frozen_by(graph, reasons)


def _data_key(snapshot: Snapshot) -> Hashable:
    search = snapshot.spec.search
    return snapshot.dataset.id, snapshot.model.id, search.seed, search.calibration_images


def job_source(context: Context, dataset: Dataset, model: Model) -> Source:
    """Where the data set lies, with images in the form that the model takes."""
    spec = DatasetSpec.model_validate(dataset.spec)
    shape = ModelSpec.model_validate(model.spec).input_shape
    if shape is None and model.report is not None:
        shape = tuple(model.report["input_shape"])
    feed = Feed.reported(model.report, shape)
    image_shape = None if shape is None else feed.image_shape(shape)
    source = dataset_source(context, dataset.id, spec, image_shape=image_shape)
    return replace(source, feed=feed)


def dataset_source(
    context: Context,
    dataset_id: str,
    spec: DatasetSpec,
    *,
    image_shape: tuple[int, ...] | None = None,
) -> Source:
    """Where the data set lies on this worker; an uploaded archive is unpacked here once.

    Raises:
        DatasetError: The archive cannot be unpacked.
    """
    settings = context.settings
    return Source.of(
        spec,
        upload_of(context, dataset_id) if spec.needs_archive else None,
        allow=settings.allow,
        roots=data_roots(settings),
        image_shape=image_shape,
    )


def upload_of(context: Context, dataset_id: str) -> Upload:
    """The uploaded file of a data set on this worker, and where it is unpacked.

    Raises:
        ArtifactNotFound: It is not in the store.
    """
    file = context.store.local_path(archive_name(dataset_id))
    return Upload(file, context.settings.unpacked / dataset_id)


def stored_blob(store: ArtifactStore, data: bytes, digest: str) -> Blob:
    """An ONNX model in the store under its digest; stored once."""
    location = skeleton_name(digest)
    if not store.exists(location):
        store.put(location, data, sha256=digest)
    return Blob(digest=digest, size=len(data), location=location)
