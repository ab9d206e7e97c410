"""`secateur prune`: one command from a model, data and a budget to the files of the result.

Only orchestrates: everything goes through the REST API of the stack that runs, or of a private
one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from api.cli.budgets import read_budget, words
from api.cli.connection import ApiKey, default_home
from api.cli.constraints import (
    BatchSize,
    Blocks,
    Exclude,
    MaxAccuracyDrop,
    MaxMemoryMb,
    MaxParameters,
    MaxSizeMb,
    MinAccuracy,
    Multiple,
    Precision,
    PruneFrozen,
    TimeLimit,
    checked,
    constraints_of,
)
from api.cli.given import Given, Unclear, data_of, model_of, short
from api.cli.inputs import Patience, numbers, shape
from api.cli.interrupts import Interrupts
from api.cli.jobs import read_spec
from api.cli.models import json_object
from api.cli.output import complain, console, explain, size
from api.cli.results import notes, result_table, runtimes_table
from api.cli.selecting import selector_of
from api.cli.serving import is_here, serving
from api.cli.voice import Voice
from api.cli.watch import EXIT_CODES, follow
from api.cli.zoo import asked as asked_of_zoo
from api.cli.zoo import is_of_a_zoo, kept_weights
from jobs.near import near

if TYPE_CHECKING:
    from api.client import Client, Inputs
    from api.routes.views import JobView

# Smaller than the defaults of a job, and ended in time: without the limit the demo took 10 to 11
# minutes where others were busy on its two cores.
QUICK = {
    "search": {
        "levels": 3, "beam_width": 2, "children": 5, "staircase_points": 3, "finalists": 1,
    },
    "finetune": {"steps": 200},
    "constraints": {"time_limit_s": "5m"},
}  # fmt: skip
PICTURES = ("image_folder", "idx")
LIVE = ("queued", "preparing", "searching", "finetuning", "verifying")
AGAIN = ("failed", "cancelled")
INTERRUPTED = 130
EPILOG = """\
Examples:

    secateur prune model.onnx --data photos/ --ratio 60%

    secateur prune timm:resnet18 --weights w.safetensors --input-shape 3,224,224 --data d.zip \\
        --latency 20ms

    secateur prune model.onnx --data photos/ --ratio 60% --exclude 'layer1.*' --multiple 8 \\
        --max-accuracy-drop 1%

Exit codes: 0 the job succeeded, 1 it failed or something was refused, 2 the command is wrong,
3 the budget is out of reach, 4 the job was cancelled, 130 interrupted before there was a job.

Ctrl-C stops the job with the best so far; Ctrl-C again cancels it. The same command again goes on
with the same job.
"""


def prune(
    model: Annotated[
        str,
        typer.Argument(
            help="ONNX file; timm:NAME or torchvision:NAME, with --weights or pretrained; "
            "transformers:NAME or python:module:function with --weights; or the name of a model "
            "on the server."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Folder, .npz file, zip or tar archive, python:module:function, or the name of "
            "a data set on the server."
        ),
    ],
    latency: Annotated[str | None, typer.Option(help="Budget: 20ms or 0.02s.")] = None,
    ratio: Annotated[
        str | None, typer.Option(help="Budget as a part of the dense latency: 60%, 0.6x or 0.6.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Safetensors file of the network.", dir_okay=False)
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="Of one example without the batch, such as 3,224,224; libraries know theirs."
        ),
    ] = None,
    kwargs: Annotated[
        str, typer.Option(help="Arguments of the architecture, as a JSON object.")
    ] = "{}",
    mean: Annotated[
        str | None, typer.Option(help="Mean per channel, such as 0.5,0.5,0.5.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Deviation per channel.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Name or id of a device, label:<key>=<value> or where:<expression>."),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Runtime on the device, onnxruntime by default; auto: the one in which the dense "
            "model is fastest, in float32 or int8."
        ),
    ] = None,
    batch_size: BatchSize = None,
    precision: Precision = None,
    blocks: Blocks = None,
    exclude: Exclude = None,
    prune_frozen: PruneFrozen = False,
    multiple: Multiple = None,
    max_parameters: MaxParameters = None,
    max_size_mb: MaxSizeMb = None,
    max_memory_mb: MaxMemoryMb = None,
    min_accuracy: MinAccuracy = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    time_limit_s: TimeLimit = None,
    steps: Annotated[int | None, typer.Option(help="Steps of fine-tuning; 0 is none.")] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="A smaller search, of five minutes at most with its training."
        ),
    ] = False,
    spec_path: Annotated[
        Path | None,
        typer.Option("--spec", help="JSON file with more of the job: search, finetune, target."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the files; by default MODEL-BUDGET.", file_okay=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON document; progress to stderr.")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(
            help="Address of a server; by default that of the stack of this home, or a private "
            "one is started.",
            envvar="SECATEUR_URL",
        ),
    ] = None,
    key: ApiKey = None,
) -> None:
    """Prune MODEL until it meets a latency as measured on the device, and fetch the files."""
    voice = Voice(console(stderr=as_json))
    limits = constraints_of(
        exclude=exclude,
        prune_frozen=prune_frozen,
        multiple=multiple,
        max_parameters=max_parameters,
        max_size_mb=max_size_mb,
        max_memory_mb=max_memory_mb,
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
        time_limit_s=time_limit_s,
    )
    given_here = {
        "target": given_only(runtime=runtime, batch_size=batch_size),
        "search": given_only(precision=precision, blocks=blocks),
        "finetune": given_only(steps=steps),
        "constraints": limits,
    }
    job_spec = merged(merged(QUICK if quick else {}, read_spec(spec_path)), given_here)
    job_spec = {name: part for name, part in job_spec.items() if part != {}}
    job_spec["budget"] = read_budget(latency, ratio)
    checked(job_spec)
    options = {
        name: numbers(value) for name, value in (("mean", mean), ("std", std)) if value is not None
    }
    sizes = None if input_shape is None else shape(input_shape)
    try:
        asked, known = described(model, weights, sizes, json_object(kwargs), voice)
        given = data_of(data, options, upload=server is not None and not is_here(server))
        if given is not None and given.spec["format"] in PICTURES and not options:
            if options := {name: known[name] for name in ("mean", "std") if known.get(name)}:
                voice.say(
                    f"Pixels are normalised as the network's library does it, {options}: --mean "
                    "and --std say otherwise."
                )
            given = data_of(data, options, upload=server is not None and not is_here(server))
    except (Unclear, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    wanted = [each.allow for each in (asked, given) if each is not None and each.allow]
    try:
        with serving(server, wanted, runtime_of(job_spec), voice) as url:
            from api.client import Client

            with Client(url, key=key) as client:
                names = {
                    "model": submitted(client.models, "model", model, asked, voice),
                    "dataset": submitted(client.datasets, "data set", data, given, voice),
                }
                if device is not None:
                    selected = {"target": {"device": selector_of(client, device)}}
                    job_spec = merged(job_spec, selected)
                job = run(client, {**job_spec, **names}, voice)
                stem = asked.stem if asked else short(model)
                folder = out or Path(f"{stem}-{words(job_spec['budget'])}")
                files = download(client, job, folder) if job.result else []
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on with the same job")
        raise typer.Exit(INTERRUPTED) from None
    show(job, folder, files, voice, as_json=as_json)
    if job.state != "succeeded":
        explain(job.problem or {"detail": f"{job.id} is {job.state}"})
        raise typer.Exit(EXIT_CODES.get(job.state, 1))


def described(
    model: str,
    weights: Path | None,
    sizes: list[int] | None,
    kwargs: dict[str, Any],
    voice: Voice,
) -> tuple[Given | None, dict[str, Any]]:
    """The model, and what its library knows of it where that was asked: the shape of the input
    where none is given, pretrained weights where none are."""
    known: dict[str, Any] = {}
    if is_of_a_zoo(model) and (weights is None or sizes is None):
        fetched = None
        if weights is None:
            weights = kept_weights(default_home(os.environ), model, kwargs)
            if not weights.exists():
                fetched = weights
                voice.say(f"Fetching the pretrained weights of {model} to {weights}.")
        known = asked_of_zoo(model, kwargs, fetched)
        sizes = sizes or known.get("input_shape")
    return model_of(model, weights=weights, input_shape=sizes, kwargs=kwargs), known


def submitted(
    inputs: "Inputs[Any]", what: str, text: str, given: Given | None, voice: Voice
) -> str:
    """The name of the model or data set on the server, added unless the same content is there."""
    known = {each.name: each for each in inputs.list()}
    by_id = {each.id: each for each in known.values()}
    found = known.get(given.name) if given else known.get(text) or by_id.get(text)
    if given is None:
        if found is None:
            raise typer.BadParameter(
                f"there is no file and no {what} {text!r} on the server{near(text, known)}"
            )
    elif found is None or found.state == "rejected":
        voice.say(f"Adding the {what} {given.name}.")
        found = inputs.add(given.spec, given.file)  # type: ignore[attr-defined]
    else:
        voice.say(f"The {what} {found.name} is there already.")
    checked = inputs.wait(found.id, seen=Patience(voice.say))
    if checked.state == "rejected":
        explain(checked.problem or {"detail": f"{checked.name} was rejected"})
        raise typer.Exit(1)
    for told in (getattr(checked, "report", None) or {}).get("adapted", {}).values():
        voice.say(f"{checked.name}: {told}.")
    return str(checked.name)


def run(client: "Client", spec: dict[str, Any], voice: Voice) -> "JobView":
    """The job of this spec, followed until it ends: the one that was submitted before, unless it
    failed or was cancelled, or a new one."""
    text = json.dumps(spec, sort_keys=True)
    name = f"{spec['model'][:40]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    before = [each for each in client.jobs.list() if each.name == name]
    if before and before[0].state not in AGAIN:
        job = before[0]
        voice.say(
            f"Going on with {job.id}." if job.state in LIVE else f"{job.id} has ended before."
        )
    else:
        key = f"{name}-{len(before)}"
        job = client.jobs.submit({**spec, "name": name}, idempotency_key=key)
        voice.say(f"Submitted {job.id}.")
    interrupts = Interrupts()
    with interrupts.counted():
        return follow(
            client,
            job.id,
            console=voice.console,
            look=lambda: interrupts.answer(client, job.id, voice.say),
        )


def download(client: "Client", job: "JobView", folder: Path) -> list[Path]:
    """Writes the files of the job."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for artifact in client.jobs.artifacts(job.id):
        target = folder / Path(artifact.name).name
        client.jobs.download(job.id, artifact, target)
        files.append(target)
    return files


def show(job: "JobView", folder: Path, files: list[Path], voice: Voice, *, as_json: bool) -> None:
    """The table and the files; with --json the one document."""
    if job.result:
        voice.console.print(result_table(job.result))
        if (runtimes := runtimes_table(job.result)) is not None:
            voice.console.print(runtimes)
        voice.say(" · ".join(notes(job.result)))
    if files:
        voice.say(f"\nFiles in {folder}:")
        for file in files:
            voice.say(f"  {file.name}  {size(file.stat().st_size)}")
    if as_json:
        document = {
            "job": job.model_dump(mode="json"),
            "out": str(folder) if files else None,
            "files": [str(file) for file in files],
        }
        Console(soft_wrap=True, highlight=False, markup=False).print(
            json.dumps(document, indent=2)
        )


def runtime_of(spec: Mapping[str, Any]) -> str:
    """The runtime that a job asks for."""
    from latency_probes.messages import Target

    return str(spec.get("target", {}).get("runtime", Target().runtime))


def given_only(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both documents; of fields that both have the second's, objects field by field."""
    both = dict(first)
    for name, value in second.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(name), Mapping)
        both[name] = merged(both[name], value) if nested else value
    return both
