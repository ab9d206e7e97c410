"""`secateur keys`: who may use the API."""

from typing import Annotated

import typer

from api.cli.connection import ApiKey, AsJson, Server, connect
from api.cli.output import emit, say, show_table

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, submit, devices or admin; may be repeated; default: submit."),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="When it ends, such as 2030-01-31T00:00:00Z.")
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """Create a key; its secret is shown this once."""
    with connect(server, key) as client:
        created = client.keys.create(name, scope or ["submit"], expires_at=expires_at)
    if as_json:
        emit(created)
        return
    say(created.key or "")


@app.command("list")
def list_keys(as_json: AsJson = False, server: Server = None, key: ApiKey = None) -> None:
    """List all keys, without their secrets."""
    with connect(server, key) as client:
        keys = client.keys.list()
    if as_json:
        emit(keys)
        return
    rows = [(k.name, k.scopes, k.expires_at, k.id) for k in keys]
    show_table(("Name", "Scopes", "Ends", "Id"), rows, "No key yet.")


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id or name of the key.")],
    server: Server = None,
    key: ApiKey = None,
) -> None:
    """Make a key worthless."""
    with connect(server, key) as client:
        client.keys.revoke(key_id)
    say(f"{key_id} is revoked")
