"""`secateur prune` as a user types it: a private stack, Ctrl-C, and the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from search.skeleton import export_onnx
from tests.e2e_tests.nets import SHAPE, tiny_resnet, write_dataset, write_weights

ROOT = Path(__file__).parent.parent.parent
SEARCH = {"levels": 2, "beam_width": 1, "children": 2, "calibration_images": 64, "finalists": 1}
FINETUNE = {"steps": 1_000_000, "batch_size": 64, "learning_rate": 0.02}


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    model = tiny_resnet().eval()
    model.load_state_dict(load_file(write_weights(tmp_path / "tiny.safetensors")))
    (tmp_path / "tiny.onnx").write_bytes(
        export_onnx(model, (torch.rand(2, *SHAPE),), batch_size=1)
    )
    write_dataset(tmp_path / "stripes.npz")
    (tmp_path / "job.json").write_text(json.dumps({"search": SEARCH, "finetune": FINETUNE}))
    options = ["--data", "stripes.npz", "--ratio", "60%", "--spec", "job.json", "--out", "result"]
    arguments = ["prune", "tiny.onnx", *options, "--runtime", "replay", "--no-blocks", "--json"]
    return [sys.executable, "-m", "api.cli.main", *arguments]


def test_one_command_prunes_stops_with_the_best_so_far_and_goes_on_where_it_was(
    command: list[str], tmp_path: Path
) -> None:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "SECATEUR_HOME": str(tmp_path / "home"),
    }  # fmt: skip
    environment.pop("SECATEUR_URL", None)
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as first:  # fmt: skip
        told: list[str] = []
        asked = False
        for line in first.stderr or ():
            told.append(line)
            if "training step" in line and "accuracy" in line and not asked:
                asked = True
                first.send_signal(signal.SIGINT)
        out = (first.stdout or sys.stdin).read()
    assert first.returncode == 0, told
    assert any("Stopping with the best so far" in line for line in told)
    document = json.loads(out)
    assert document["job"]["result"]["ratio"] <= 0.6
    assert document["job"]["spec"]["search"]["blocks"] is False
    assert {Path(each).name for each in document["files"]} >= {"model.onnx", "report.json"}
    assert (tmp_path / "result" / "model.onnx").is_file()

    again = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["job"]["id"] == document["job"]["id"]
    assert "is there already" in again.stderr
