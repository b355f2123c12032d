"""``frontier proxies``"""

from __future__ import annotations

from typing import Annotated

import typer

from search_spaces.plugins import names
from service.cli.common import AsJson, Url, body, connect, show_fields, show_json, show_table, wait_all
from service.wire.payloads import ScoreResult
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
        if detach:
            show_fields(queued, as_json)
            return
        results = [ScoreResult.model_validate(job.result) for job in wait_all(client, queued.jobs, "scoring")]
    scores = {name: [row[name] for one in results for row in one.scores if name in row] for name in proxy}
    undefined = {name: sum(name in row for one in results for row in one.undefined) for name in proxy}
    if as_json:
        show_json({"jobs": queued.jobs, "reused": queued.reused, "scores": scores, "undefined": undefined})
        return
    show_table(
        ["proxy", "scored", "undefined", "lowest", "highest"],
        ((n, len(scores[n]), undefined[n], min(scores[n], default=None), max(scores[n], default=None)) for n in proxy),
    )
    typer.echo(f"{queued.reused} needed no scoring; all scores are measurements of the study")
