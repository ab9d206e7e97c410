"""`secateur devices`: the machines that measure."""

from typing import Annotated

import typer

from api.cli.connection import ApiKey, AsJson, Server, connect
from api.cli.output import emit, say, show_fields, show_table

app = typer.Typer(help="Devices that measure.", no_args_is_help=True)

Device = Annotated[str, typer.Argument(help="Id of the device.")]


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
