"""The requests of a fault run, and the one right answer to each: the recording says it for some,
the runtime replay's function of shapes for the others."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from jobs.artifacts import skeleton_name
from jobs.repository import datasets, jobs, models, requests, skeletons
from jobs.spec import BudgetSpec, DatasetSpec, JobSpec, ModelSpec
from jobs.states import JobState
from jobs.status import transition
from latency_probes.messages import Settings, Target
from latency_probes.onnx_reader import FILL
from latency_probes.runtimes.replay import synthetic_latency_ns
from workers.context import Context

ERRORS = {"crashed": 0.02, "unsupported_op": 0.03}
Answer = float | str  # a ratio to the reference, or the kind of an error


def skeleton(width: int) -> bytes:
    """One product with a matrix of this width, without weights."""
    weight = TensorProto(name="w", dims=[64, width], data_type=TensorProto.FLOAT)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=FILL)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, dim])
        for name, dim in (("x", 64), ("y", width))
    ]
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [weight])
    opset = helper.make_opsetid("", 18)
    data: bytes = helper.make_model(
        graph, opset_imports=[opset], ir_version=10
    ).SerializeToString()
    return data


class Questions:
    """`count` requests, each about a skeleton of its own, whose answers all differ."""

    def __init__(self, count: int, seed: int) -> None:
        chance = random.Random(f"questions {seed}")
        self._reference = skeleton(8 * (count + 1))
        self._candidates = [skeleton(8 * (number + 1)) for number in range(count)]
        kinds, shares = [None, *ERRORS], [1 - sum(ERRORS.values()), *ERRORS.values()]
        self._errors = dict(enumerate(chance.choices(kinds, shares, k=count)))

    def record(self, path: Path, delay_s: float) -> None:
        """Write the recording that the agents replay."""
        latencies: Mapping[str, Any] = {
            hashlib.sha256(self._candidates[number]).hexdigest(): {"error": kind}
            for number, kind in self._errors.items()
            if kind is not None
        }
        path.write_text(json.dumps({"delay_s": delay_s, "latencies": latencies}))

    def ask(self, context: Context) -> dict[str, Answer]:
        """Store the requests of a job that is preparing; request id -> the right answer."""
        reference = self._store(context, self._reference)
        digests = [self._store(context, candidate) for candidate in self._candidates]
        job_id = _job(context)
        whole = synthetic_latency_ns(self._reference)
        answers: dict[str, Answer] = {}
        with context.unit() as unit:
            for number, digest in enumerate(digests):
                row = requests.add(
                    unit.session,
                    job_id,
                    f"screening:{number}",
                    skeleton_digest=digest,
                    reference_digest=reference,
                    selector="any",
                    target=Target(runtime="replay"),
                    settings=Settings(),
                )
                ratio = synthetic_latency_ns(self._candidates[number]) / whole
                answers[row.id] = self._errors[number] or ratio
        return answers

    @staticmethod
    def _store(context: Context, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        context.store.put(skeleton_name(digest), data)
        with context.unit() as unit:
            skeletons.add(unit.session, digest, len(data), skeleton_name(digest))
        return digest


def _job(context: Context) -> str:
    model = ModelSpec(name="model", architecture="python:none:none", input_shape=(64,))
    data = DatasetSpec(name="data", format="python", function="python:none:none")
    spec = JobSpec(model="model", dataset="data", budget=BudgetSpec(ratio=0.5))
    with context.unit() as unit:
        a_model = models.create(unit.session, model, weights_digest="0" * 64)
        a_dataset = datasets.create(unit.session, data)
        if a_model is None or a_dataset is None:
            raise LookupError("a fault run must have a database of its own")
        models.accept(unit.session, a_model.id, {})
        datasets.accept(unit.session, a_dataset.id, {})
        job = jobs.create(unit.session, spec, model_id=a_model.id, dataset_id=a_dataset.id)
        transition(unit.session, job.id, JobState.QUEUED, JobState.PREPARING, 1)
        return job.id
