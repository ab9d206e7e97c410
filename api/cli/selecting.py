"""Devices as people name them on the command line, turned into selectors."""

import time
from typing import TYPE_CHECKING

import typer

from jobs.near import near

if TYPE_CHECKING:
    from api.client import Client

ENROLMENT_S = 10


def selector_of(client: "Client", text: str, option: str = "--device") -> str:
    """A selector; the name or id of a device becomes one."""
    if text == "any":
        return text
    devices = client.devices.list()
    for _ in range(ENROLMENT_S):  # the probe of a stack that has just begun enrols itself
        if devices:
            break
        time.sleep(1)
        devices = client.devices.list()
    if text.startswith(("id:", "label:", "where:")):
        return text
    matching = [
        each for each in devices if text in (each.name, each.id) and each.state != "revoked"
    ]
    if len(matching) == 1:
        return f"id:{matching[0].id}"
    names = sorted({each.name for each in devices})
    if matching:
        told = ", ".join(f"id:{each.id}" for each in matching)
        raise typer.BadParameter(f"{option} {text!r} names several devices: give one of {told}")
    raise typer.BadParameter(
        f"{option} must be any, id:…, label:…, where:… or the name of a device "
        f"({', '.join(names) or 'there is none yet'}), but got {text!r}{near(text, names)}"
    )
