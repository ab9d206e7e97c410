"""A whole job on a network that can only be pruned as its exported graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.torch import save

from jobs.artifacts import job_file_name
from search.graph.program import PrunedGraph
from search.surgery import load_pruned
from tests.workers_tests.nets import SHAPE, tokens
from tests.workers_tests.workshop import Workshop


def test_a_transformer_loses_heads_and_comes_back_as_files(
    workshop: Workshop, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    workshop.add_model("tokens", "tokens", save(dict(tokens().state_dict())))
    job_id = workshop.submit(
        model="tokens", budget={"ratio": 0.84}, finetune={"steps": 3, "batch_size": 16}
    )
    job = workshop.play(job_id)
    assert job.state == "succeeded", job.problem
    assert (job.result or {})["ratio"] <= 0.84
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
