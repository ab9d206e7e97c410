"""`secateur devices`: the machines that measure."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.check_plot import check_svg
from api.cli.checking import follow, line, show_check
from api.cli.connection import ApiKey, AsJson, Server, connect
from api.cli.output import complain, emit, percent, say, show_fields, show_table
from api.cli.removing import add_removal

app = typer.Typer(help="Devices that measure.", no_args_is_help=True)

Device = Annotated[str, typer.Argument(help="Id or name of the device.")]


@app.command("list")
def list_devices(as_json: AsJson = False, server: Server = None, key: ApiKey = None) -> None:
    """List all devices."""
    with connect(server, key) as client:
        devices = client.devices.list()
    if as_json:
        emit(devices)
        return
    rows = [(d.name, d.state, (d.capabilities or {}).get("cpu"), d.labels, d.id) for d in devices]
    show_table(("Name", "State", "Processor", "Labels", "Id"), rows, "No device yet.")


@app.command("show")
def show(
    device_id: Device, as_json: AsJson = False, server: Server = None, key: ApiKey = None
) -> None:
    """Show one device and what it can run."""
    with connect(server, key) as client:
        device = client.devices.get(device_id)
    if as_json:
        emit(device)
        return
    show_fields(device.model_dump(mode="json"))


@app.command("drain")
def drain(device_id: Device, server: Server = None, key: ApiKey = None) -> None:
    """Let a device finish what it does and give it nothing more."""
    with connect(server, key) as client:
        device = client.devices.drain(device_id)
    say(f"{device.name} is {device.state}")


@app.command("resume")
def resume(device_id: Device, server: Server = None, key: ApiKey = None) -> None:
    """Give a drained device work again."""
    with connect(server, key) as client:
        device = client.devices.resume(device_id)
    say(f"{device.name} takes work again")


@app.command("check")
def check(
    device_id: Device,
    model: Annotated[
        str | None,
        typer.Option(help="Name or id of a model that a job ran on; by default the last one."),
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="Runtime on the device.")] = None,
    provider: Annotated[str | None, typer.Option(help="Its execution provider.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads.", min=1)] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer measurements, without pauses.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="SVG file to draw the result into.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """Measure a model against itself on a device: which differences can it resolve?

    The exit code is 1 if the check failed.
    """
    if plot is not None and plot.suffix != ".svg":
        raise typer.BadParameter(f"--plot must name an .svg file, but got {plot}")
    asked = {"model": model, "runtime": runtime, "provider": provider, "threads": threads}
    spec = {name: value for name, value in asked.items() if value is not None}
    with connect(server, key) as client:
        begun = client.devices.check(device_id, {**spec, "quick": quick})
        ended = follow(client, begun.id, silent=as_json)
    if as_json:
        emit(ended)
    elif ended.result:
        show_check(ended)
    if plot is not None and ended.result:
        plot.write_text(check_svg(ended.result, ended.workload), encoding="utf-8")
    if ended.error is not None:
        complain(ended.error)
        raise typer.Exit(1)


@app.command("checks")
def checks(
    device_id: Device, as_json: AsJson = False, server: Server = None, key: ApiKey = None
) -> None:
    """List the checks of a device, newest first."""
    with connect(server, key) as client:
        found = client.devices.checks(device_id)
    if as_json:
        emit(found)
        return
    rows = [
        (
            c.id,
            line(c),
            c.workload,
            percent((c.result or {}).get("screening"), 2),
            c.created_at.strftime("%Y-%m-%d %H:%M"),
        )
        for c in found
    ]
    headings = ("Id", "State", "Model", "Screening resolves", "Started")
    show_table(headings, rows, "No check yet.")


@app.command("revoke")
def revoke(device_id: Device, server: Server = None, key: ApiKey = None) -> None:
    """Take a device's credentials away for good."""
    with connect(server, key) as client:
        device = client.devices.revoke(device_id)
    say(f"{device.name} is {device.state}")


@app.command("token")
def token(as_json: AsJson = False, server: Server = None, key: ApiKey = None) -> None:
    """Create a token with which one new device may enrol."""
    with connect(server, key) as client:
        created = client.devices.token()
    if as_json:
        emit(created)
        return
    say(created.token)


add_removal(
    app,
    lambda client: client.devices,
    "Shut devices out for good and show them no more. What they measured stays readable.",
)
