"""``frontier devices``"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.common import AsJson, Url, connect, show_fields, show_json, show_table

app = typer.Typer(help="What workers compute on: latencies belong to it.", no_args_is_help=True)


@app.command("list")
def list_devices(url: Url = None, as_json: AsJson = False) -> None:
    """List devices."""
    with connect(url) as client:
        devices = list(client.devices.list())
    if as_json:
        show_json(devices)
        return
    show_table(
        ["name", "type", "memory MiB", "workers", "latencies", "last seen"],
        (
            (d.name, d.type, d.memory_mb, len(d.workers), d.latencies, d.last_seen_at.isoformat(timespec="seconds"))
            for d in devices
        ),
    )


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name of the device.")], url: Url = None, as_json: AsJson = False
) -> None:
    """Show a device: memory, software, its workers."""
    with connect(url) as client:
        show_fields(client.devices.get(name), as_json)
