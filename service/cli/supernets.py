"""``frontier supernets``"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.common import (
    AsJson,
    DeviceType,
    MemoryMb,
    Url,
    body,
    connect,
    parse_json,
    show_fields,
    show_json,
    show_table,
    wait,
)
from service.wire.spaces import Resources, SupernetIn, Task

app = typer.Typer(help="Super-networks.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the super-network.")]


@app.command("list")
def list_supernets(url: Url = None, as_json: AsJson = False) -> None:
    """List super-networks."""
    with connect(url) as client:
        supernets = list(client.supernets.list())
    if as_json:
        show_json(supernets)
        return
    show_table(
        ["name", "space", "data set", "state", "job"],
        ((s.name, s.space, s.task.dataset, s.state, s.job) for s in supernets),
    )


@app.command("show")
def show(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """Show a super-network."""
    with connect(url) as client:
        show_fields(client.supernets.get(name), as_json)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name for the super-network.")],
    space: Annotated[str, typer.Option(help="Name of its search space.")],
    dataset: Annotated[str, typer.Option(help="Name of the data set to train on.")],
    recipe: Annotated[str, typer.Option(help="Training recipe: a JSON object, or @FILE.")] = "{}",
    seed: Annotated[int, typer.Option(min=0, help="Seed of initialisation, order and sampling.")] = 0,
    device_type: DeviceType = None,
    memory_mb: MemoryMb = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Create a super-network; `train` trains it."""
    task = body(Task, dataset=dataset)
    wanted = body(
        SupernetIn,
        name=name,
        space=space,
        task=task,
        recipe=parse_json(recipe, "--recipe"),
        seed=seed,
        resources=body(Resources, device_type=device_type, memory_mb=memory_mb),
    )
    with connect(url) as client:
        show_fields(client.supernets.create(wanted), as_json)


@app.command("train")
def train(
    name: Name,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Train a super-network."""
    with connect(url) as client:
        job = client.supernets.train(name)
        if detach:
            show_fields(job, as_json)
            return
        wait(client, job, f"training {name}")
        show_fields(client.supernets.get(name), as_json)
