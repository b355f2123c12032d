"""``frontier predictors``"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.common import AsJson, Url, connect, show_fields, show_json, show_table, wait
from service.wire.searches import AuditIn

app = typer.Typer(help="Performance predictors.", no_args_is_help=True)

Id = Annotated[int, typer.Argument(min=1, help="Id of the predictor.")]


@app.command("list")
def list_predictors(
    study: Annotated[str | None, typer.Option(help="Only those of this study.")] = None,
    search: Annotated[int | None, typer.Option(min=1, help="Only those of the search with this id.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List versions of predictors."""
    with connect(url) as client:
        predictors = list(client.predictors.list(study, search))
    if as_json:
        show_json(predictors)
        return
    show_table(
        ["id", "study", "search", "ask", "metric", "family", "rows", "state"],
        ((p.id, p.study, p.search, p.ask, p.metric, p.family, p.rows, p.state) for p in predictors),
    )


@app.command("show")
def show(predictor: Id, url: Url = None, as_json: AsJson = False) -> None:
    """Show a predictor."""
    with connect(url) as client:
        show_fields(client.predictors.get(predictor), as_json)


@app.command("audit")
def audit(
    predictor: Id,
    search: Annotated[int, typer.Option(min=1, help="Id of the search whose architectures are ranked.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Rank a search's architectures by a predictor that never saw them."""
    with connect(url) as client:
        job = wait(client, client.predictors.audit(predictor, AuditIn(search=search)), f"auditing {predictor}")
    found = (job.result or {}).get("audit") or {}
    if as_json:
        show_json(found)
        return
    show_table(["figure", "value"], found.items())
