"""``frontier workers``"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.common import AsJson, Url, connect, show_fields, show_json, show_table

app = typer.Typer(help="Who does the work. `frontier worker` starts one.", no_args_is_help=True)


@app.command("list")
def list_workers(url: Url = None, as_json: AsJson = False) -> None:
    """List workers, with what they hold."""
    with connect(url) as client:
        workers = list(client.workers.list())
    if as_json:
        show_json(workers)
        return
    show_table(
        ["name", "alive", "device", "type", "memory MiB", "jobs", "kinds", "last heard of"],
        (
            (
                each.name,
                each.alive,
                each.device.name,
                each.device.type,
                each.device.memory_mb,
                ", ".join(map(str, each.jobs)),
                ", ".join(each.kinds),
                f"{each.last_seen_at:%Y-%m-%d %H:%M:%S}",
            )
            for each in workers
        ),
    )


@app.command("show")
def show(
    worker: Annotated[str, typer.Argument(help="Name of the worker.")], url: Url = None, as_json: AsJson = False
) -> None:
    """Show a worker."""
    with connect(url) as client:
        show_fields(client.workers.get(worker), as_json)
