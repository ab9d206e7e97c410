"""`secateur jobs`: submit pruning jobs, watch them, fetch what they produced."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.connection import ApiKey, AsJson, Server, connect
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
    constraints_of,
)
from api.cli.output import (
    age,
    emit,
    milliseconds,
    percent,
    say,
    show_fields,
    show_table,
    size,
)
from api.cli.removing import add_removal
from api.cli.results import show_result
from api.cli.selecting import selector_of
from api.cli.watch import facts, finish, follow

if TYPE_CHECKING:
    from api.client import Client
    from api.routes.views import JobView

app = typer.Typer(help="Pruning jobs.", no_args_is_help=True)

COLUMNS = (
    "Id", "Name", "State", "Model", "Budget", "Latency", "Of dense", "Accuracy", "Age",
)  # fmt: skip
JobId = Annotated[
    str, typer.Argument(help="Id or name of the job; of several with the name, the newest.")
]


EXAMPLES = """\
Examples:

    secateur jobs submit --model resnet20 --dataset fashion-mnist --ratio 60% --wait

    secateur jobs submit job.json --latency 20ms --device kitchen-pi
"""


@app.command("submit", epilog=EXAMPLES)
def submit(
    spec_path: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC]", help="JSON file; options below override its fields."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
    model: Annotated[str | None, typer.Option(help="Name or id of the model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name or id of the data set.")] = None,
    ratio: Annotated[
        str | None, typer.Option(help="Budget as a part of the dense latency: 60%, 0.6x or 0.6.")
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option("--latency", "--latency-ms", help="Budget as a latency: 20ms or 0.02s."),
    ] = None,
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--further-budgets",
            "--further",
            help="One more budget, 40% or 10ms, or 40%@DEVICE of another device, answered by a "
            "job of its own from what this one found out. May be repeated.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--further-devices",
            "--also",
            help="A budget on one more device, 60%@DEVICE or 20ms@DEVICE, that the one result "
            "must meet too. May be repeated.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Name or id of a device, any, label:<key>=<value> or where:<expression>."
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Runtime on the device, onnxruntime by default; auto: the one in which the dense "
            "model is fastest, in float32 or int8."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search.")] = None,
    blocks: Blocks = None,
    steps: Annotated[int | None, typer.Option(help="Steps of fine-tuning; 0 is none.")] = None,
    batch_size: BatchSize = None,
    precision: Precision = None,
    exclude: Exclude = None,
    prune_frozen: PruneFrozen = False,
    multiple: Multiple = None,
    max_parameters: MaxParameters = None,
    max_size_mb: MaxSizeMb = None,
    max_memory_mb: MaxMemoryMb = None,
    min_accuracy: MinAccuracy = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    time_limit_s: TimeLimit = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Makes repeating this command safe.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the job until it ends.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """Submit a job. With --wait the exit code is 1 if it failed, 3 infeasible, 4 cancelled."""
    spec = read_spec(spec_path)
    put(spec, ("name",), name)
    put(spec, ("model",), model)
    put(spec, ("dataset",), dataset)
    if ratio is not None or latency is not None:
        spec["budget"] = {}
    put(spec, ("budget", "ratio"), ratio)
    put(spec, ("budget", "latency_ms"), latency)
    put(spec, ("target", "runtime"), runtime)
    put(spec, ("search", "seed"), seed)
    put(spec, ("search", "blocks"), blocks)
    put(spec, ("search", "precision"), precision)
    put(spec, ("finetune", "steps"), steps)
    put(spec, ("target", "batch_size"), batch_size)
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
    for field, value in limits.items():
        put(spec, ("constraints", field), value)
    with connect(server, key) as client:
        if device is not None:
            put(spec, ("target", "device"), selector_of(client, device))
        if further:
            spec["further_budgets"] = [_at_device(client, each, "--further") for each in further]
        if also:
            spec["further_devices"] = [_at_device(client, each, "--also") for each in also]
        job = client.jobs.submit(spec, idempotency_key=idempotency_key)
        told(client, job, wait=wait, as_json=as_json)


def _at_device(client: "Client", text: str, option: str) -> str:
    """A budget whose device, if it names one, is a selector."""
    budget, at, device = text.partition("@")
    return f"{budget}@{selector_of(client, device, option=option)}" if at else budget


def told(client: "Client", job: "JobView", *, wait: bool, as_json: bool) -> None:
    """Shows a new job; with `wait` follows it to its end, which decides on the exit code."""
    if wait and as_json:
        job = client.jobs.wait(job.id)
    elif wait:
        say(job.id)
        job = follow(client, job.id)
    tell(job, as_json=as_json, brief=not wait)
    if wait:
        finish(job)


@app.command()
def resolve(
    job_id: JobId,
    budget: Annotated[
        str, typer.Argument(help="Another budget: 60% of the dense latency, or 20ms.")
    ],
    device: Annotated[
        str | None,
        typer.Option(help="Another device, as of a job; by default that of the job."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the job until it ends.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """Answer another budget, or one of another device, from what a job has found out: a new job
    like it, which asks no device again for what it has measured."""
    with connect(server, key) as client:
        other = None if device is None else selector_of(client, device)
        job = client.jobs.resolve(job_id, budget, device=other, name=name)
        told(client, job, wait=wait, as_json=as_json)


@app.command("list")
def list_jobs(as_json: AsJson = False, server: Server = None, key: ApiKey = None) -> None:
    """List all jobs, newest first, with what they reached."""
    with connect(server, key) as client:
        jobs = client.jobs.list()
    if as_json:
        emit(jobs)
        return
    now = datetime.now(UTC)
    show_table(COLUMNS, [_row(job, now) for job in jobs], "No job yet.")


def _row(job: "JobView", now: datetime) -> tuple[object, ...]:
    result = job.result or {}
    budget = job.spec.get("budget") or {}
    ratio, latency_ms = budget.get("ratio"), budget.get("latency_ms")
    return (
        job.id,
        job.name,
        job.state,
        job.spec.get("model"),
        percent(ratio, 0) if ratio is not None else milliseconds(latency_ms),
        milliseconds(result.get("latency_ms")),
        percent(result.get("ratio")),
        percent(result.get("accuracy"), 2),
        age(job.created_at, now),
    )


@app.command("show")
def show(
    job_id: JobId, as_json: AsJson = False, server: Server = None, key: ApiKey = None
) -> None:
    """Show one job."""
    with connect(server, key) as client:
        job = client.jobs.get(job_id)
    if as_json:
        emit(job)
        return
    problem = (job.problem or {}).get("detail")
    show_fields({"id": job.id, "name": job.name, **facts(job), "problem": problem})
    if job.result:
        show_result(job.result)


@app.command("watch")
def watch(
    job_id: JobId, as_json: AsJson = False, server: Server = None, key: ApiKey = None
) -> None:
    """Watch a job until it ends; the exit code is 1 if it failed, 3 infeasible, 4 cancelled."""
    with connect(server, key) as client:
        job = client.jobs.wait(job_id) if as_json else follow(client, job_id)
    tell(job, as_json=as_json, brief=False)
    finish(job)


@app.command("stop")
def stop(job_id: JobId, server: Server = None, key: ApiKey = None) -> None:
    """Let a job finish with the best so far."""
    with connect(server, key) as client:
        job = client.jobs.stop(job_id)
    say(f"{job.id} was asked to stop ({job.state})")


@app.command("cancel")
def cancel(job_id: JobId, server: Server = None, key: ApiKey = None) -> None:
    """End a job without a result."""
    with connect(server, key) as client:
        job = client.jobs.cancel(job_id)
    say(f"{job.id} is {job.state}")


@app.command("artifacts")
def artifacts(
    job_id: JobId,
    out: Annotated[
        Path | None, typer.Option(help="Directory to write the files to.", file_okay=False)
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """List the files that a job produced, or download them all with --out."""
    with connect(server, key) as client:
        found = client.jobs.artifacts(job_id)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            for artifact in found:
                client.jobs.download(job_id, artifact, out / Path(artifact.name).name)
    if as_json:
        emit(found)
        return
    rows = [(a.name, size(a.size), a.sha256[:12]) for a in found]
    show_table(("Name", "Size", "SHA-256"), rows, "No artifact.")


def read_spec(path: Path | None) -> dict[str, Any]:
    """The spec in a JSON file; empty without one."""
    if path is None:
        return {}
    try:
        spec = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"must be a readable JSON file, but {path}: {error}") from error
    if not isinstance(spec, dict):
        raise typer.BadParameter(f"must hold a JSON object, but {path} does not")
    return spec


def put(spec: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    """Sets a field of a nested document unless the value is None."""
    if value is None:
        return
    for name in path[:-1]:
        spec = spec.setdefault(name, {})
    spec[path[-1]] = value


def tell(job: "JobView", *, as_json: bool, brief: bool) -> None:
    """Shows what became of a job."""
    if as_json:
        emit(job)
    elif brief:
        say(f"{job.id} is {job.state}")
    elif job.result:
        show_result(job.result)


add_removal(
    app,
    lambda client: client.jobs,
    "Remove jobs that have ended, with their files, logs and measurements.",
)
