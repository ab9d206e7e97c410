"""`secateur demo`: one real job from a checkout, from the data to the table, on a private stack.

Only orchestrates: the stack does the work, and everything goes through the REST API.
"""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from api.cli.budgets import read_budget
from api.cli.inputs import Patience, finish_check
from api.cli.output import complain, remark, say
from api.cli.results import show_result
from api.cli.serving import probe_options
from api.cli.watch import finish, follow

if TYPE_CHECKING:
    from api.client import Client
    from api.routes.views import JobView

ARCHITECTURE = "python:examples.resnet20:resnet20"
CHECKPOINT = Path("examples/checkpoints/resnet20_fashion_mnist.safetensors")
INPUT_SHAPE = [1, 28, 28]
# Smaller than the defaults, so that the whole demo takes minutes on two cores.
SEARCH = {"levels": 3, "beam_width": 3, "children": 6, "finalists": 1}
FINETUNE = {"steps": 800}


def demo(
    ratio: Annotated[
        str, typer.Option(help="Budget as a part of the dense latency: 60%, 0.6x or 0.6.")
    ] = "35%",
    data: Annotated[
        Path | None, typer.Option(help="Where Fashion-MNIST lies or is fetched to.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="Runtime of the job, or auto.")] = "onnxruntime",
    home: Annotated[Path, typer.Option(help="Home of the private stack.")] = Path(".demo"),
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
) -> None:
    """Prune a trained ResNet-20 to a latency budget on this machine (from a checkout)."""
    from api.stack.background import background
    from api.stack.cores import available_cores, leave_the_probe_alone, plan_cores
    from api.stack.errors import StackError

    if not CHECKPOINT.is_file():
        complain(f"`secateur demo` runs in a checkout of Secateur, but {CHECKPOINT} is not here")
        raise typer.Exit(1)
    part = read_budget(None, ratio)["ratio"]
    home, data = home.absolute(), (data or home / "data").absolute()
    fetch(data)
    options = ["--port", "0", "--allow", ARCHITECTURE, *probe_options(runtime)]
    say("Starting the stack: broker, API, collector, workers and one probe.")
    try:
        with background(home, options) as url:
            leave_the_probe_alone(plan_cores(available_cores(), probe=True))
            job = prune(url, data, ratio=part, runtime=runtime, seed=seed)
            folder = save(url, job, home / "results" / job.id)
    except StackError as problem:
        complain(str(problem))
        raise typer.Exit(1) from problem
    if job.result:
        show_result(job.result)
    say(f"Artifacts: {folder}")
    finish(job)


def fetch(data: Path) -> None:
    """Fetches Fashion-MNIST unless it is there already."""
    say(f"Fashion-MNIST goes to {data}")
    command = [sys.executable, "-m", "examples.fetch_fashion_mnist", "--out", str(data)]
    if subprocess.run(command, check=False).returncode != 0:
        raise typer.Exit(1)


def prune(url: str, data: Path, *, ratio: float, runtime: str, seed: int) -> "JobView":
    """Submits the model, the data set and the job, and shows the job until it ends."""
    from api.client import Client

    with Client(url) as client:
        spec = {
            "name": f"resnet20-{100 * ratio:g}-percent",
            "model": model_name(client),
            "dataset": dataset_name(client, data),
            "budget": {"ratio": ratio},
            "target": {"runtime": runtime},
            "search": SEARCH | {"seed": seed},
            "finetune": FINETUNE,
        }
        job = client.jobs.submit(spec)
        Console(soft_wrap=True).print(f"Dashboard: [link]{url}/#/jobs/{job.id}[/link]")
        return follow(client, job.id)


def model_name(client: "Client") -> str:
    """The name of the demo's model on the server, submitted unless it is there."""
    digest = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    name = f"resnet20-{digest[:8]}"
    if name not in {model.name for model in client.models.list()}:
        spec = {"name": name, "architecture": ARCHITECTURE, "input_shape": INPUT_SHAPE}
        client.models.add(spec, CHECKPOINT)
    finish_check(client.models.wait(name, seen=Patience(remark)), as_json=False)
    return name


def dataset_name(client: "Client", data: Path) -> str:
    """The name of the demo's data set on the server, submitted unless it is there."""
    name = f"fashion-mnist-{hashlib.sha256(str(data).encode()).hexdigest()[:8]}"
    if name not in {dataset.name for dataset in client.datasets.list()}:
        client.datasets.add({"name": name, "format": "idx", "path": str(data)})
    finish_check(client.datasets.wait(name, seen=Patience(remark)), as_json=False)
    return name


def save(url: str, job: "JobView", folder: Path) -> Path:
    """Downloads what the job produced."""
    from api.client import Client

    folder.mkdir(parents=True, exist_ok=True)
    with Client(url) as client:
        for artifact in client.jobs.artifacts(job.id):
            client.jobs.download(job.id, artifact, folder / Path(artifact.name).name)
    return folder
