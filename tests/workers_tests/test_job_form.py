"""Whole jobs whose result is an exported graph: the network needs it, or loses blocks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import save

from jobs.artifacts import job_file_name
from latency_probes.messages import MeasureError
from latency_probes.samples import Measurement
from search.graph.pruned.pruned_graph import PrunedGraph
from search.loading import load_pruned
from tests.e2e_tests.nets import tiny_resnet
from tests.workers_tests.nets import SHAPE, tokens
from tests.workers_tests.rows import measured
from tests.workers_tests.workshop import Question, Workshop


def test_a_transformer_loses_heads_and_comes_back_as_files(
    workshop: Workshop, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    workshop.add_model("tokens", "tokens", save(dict(tokens().state_dict())))
    job_id = workshop.submit(
        model="tokens",
        budget={"ratio": 0.81},
        search={"levels": 2, "beam_width": 1, "children": 2, "staircase_points": 2,
                "calibration_images": 32, "finalists": 1, "blocks": False},
        finetune={"steps": 3, "batch_size": 16},
    )  # fmt: skip
    job = workshop.play(job_id)
    assert job.state == "succeeded", job.problem
    assert (job.result or {})["ratio"] <= 0.81
    store = workshop.bench.context.store
    for name in ("plan.json", "model.safetensors", "model.onnx"):
        (tmp_path / name).write_bytes(store.get(job_file_name(job_id, name)))
    document = json.loads((tmp_path / "plan.json").read_text())
    assert document["form"] == "graph"
    assert len(document["plan"]["kept"]["qkv"]) < 4
    model = load_pruned(tokens(), tmp_path / "plan.json", tmp_path / "model.safetensors").eval()
    assert isinstance(model, PrunedGraph)
    x = torch.rand(1, *SHAPE)
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=1e-3, atol=1e-4)


def by_depth(question: Question) -> Measurement | MeasureError:
    """As long as there are convolutions, however wide they are."""
    counts = [
        sum(node.op_type == "Conv" for node in onnx.load_from_string(model).graph.node)
        for model in (question.candidate, question.reference)
    ]
    return measured(*(count * 1_000_000 for count in counts), kind=question.kind)


def test_a_job_may_remove_blocks_and_gives_back_a_shallower_model(
    workshop: Workshop, tmp_path: Path
) -> None:
    job_id = workshop.submit(
        budget={"ratio": 0.52},
        search={"levels": 1, "beam_width": 1, "children": 1, "calibration_images": 32,
                "finalists": 1},
        finetune={"steps": 3, "batch_size": 16},
    )  # fmt: skip
    job = workshop.play(job_id, by_depth)
    assert job.state == "succeeded", job.problem
    assert (job.result or {})["ratio"] == 0.5
    store = workshop.bench.context.store
    for name in ("plan.json", "model.safetensors"):
        (tmp_path / name).write_bytes(store.get(job_file_name(job_id, name)))
    document = json.loads((tmp_path / "plan.json").read_text())
    assert document["plan"]["kept"]["outer"] == []
    model = load_pruned(tiny_resnet(), tmp_path / "plan.json", tmp_path / "model.safetensors")
    names = {name.partition(".")[0] for name in model.state_dict()}
    assert names == {"stem", "norm", "wide", "wide_norm", "head"}
