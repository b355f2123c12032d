"""``frontier proxies``"""

from __future__ import annotations

from typing import Annotated

import typer

from search_spaces.plugins import names
from service.cli.common import AsJson, Url, body, connect, show_fields, show_json, wait
from service.wire.studies import ScoreIn

app = typer.Typer(help="Zero-cost proxies.", no_args_is_help=True)


@app.command("list")
def list_proxies(as_json: AsJson = False) -> None:
    """List the proxies that are installed."""
    found = names("proxies")
    if as_json:
        show_json(found)
        return
    for name in found:
        typer.echo(name)


@app.command("score")
def score(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    proxy: Annotated[list[str], typer.Option(help="Name of a proxy; repeat it.")],
    sample: Annotated[int, typer.Option(min=1, help="Score so many architectures, drawn from the space.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Score untrained architectures."""
    wanted = body(ScoreIn, proxies=proxy, sample=sample, seed=seed)
    with connect(url) as client:
        queued = client.studies.score(study, wanted)
        if not detach:
            for number, job in enumerate(queued.jobs, start=1):
                wait(client, client.jobs.get(job), f"batch {number} of {len(queued.jobs)}")
    show_fields(queued, as_json)
