"""``frontier search confirm``"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from service.cli.common import AsJson, Url, body, connect, parse_json, progress_bar, show_json, show_table
from service.client import Client
from service.wire.confirmations import ConfirmationOut, ConfirmedMetric, ConfirmIn
from service.wire.studies import EvaluatorSpec


def confirm(
    search: Annotated[int, typer.Argument(min=1, help="Id of the search.")],
    best: Annotated[int | None, typer.Option(min=1, max=50, help="Architectures of its front; 5 by default.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=20, help="Fresh seeds for each; 3 by default.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="What to measure; the objectives that depend on a seed by default.")
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            help="Another evaluator than the study's, for example training: from scratch. For external, a worker with "
            "the function must run: frontier worker --evaluator MODULE:FUNCTION."
        ),
    ] = None,
    options: Annotated[str, typer.Option(help="Its options: a JSON object, or @FILE.")] = "{}",
    waiting: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the measurements.")] = True,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Measure the best of a search again on fresh seeds, and show how much of it was luck."""
    given = parse_json(options, "--options")
    if given and evaluator is None:
        raise typer.BadParameter("are those of --evaluator: name it", param_hint="--options")
    spec = None if evaluator is None else EvaluatorSpec(name=evaluator, options=given)
    wanted = body(ConfirmIn, best=best, seeds=seeds, evaluator=spec, metrics=metric or None)
    with connect(url) as client:
        found = client.searches.confirm(search, wanted)
        if waiting and found.open:
            found = _waited(client, found)
    if as_json:
        show_json(found)
        return
    show_table(*_table(found))
    for drop in found.drops:
        typer.echo(drop.words)
    if found.open:
        typer.echo(f"{found.open} of {found.open + found.done + found.failed} measurements are open; ask again later")
    for failure in found.failures:
        typer.echo(
            f"{failure.key[:8]} on seed {failure.seed}: {failure.state.lower()} (job {failure.job}): {failure.reason}",
            err=True,
        )


def _waited(client: Client, started: ConfirmationOut) -> ConfirmationOut:
    total = started.done + started.open + started.failed
    with progress_bar() as bar:
        task = bar.add_task(f"confirming search {started.search}", total=total, note="")

        def update(found: ConfirmationOut) -> None:
            bar.update(task, completed=total - found.open, note=f"{found.failed} failed" if found.failed else "")

        return client.searches.wait_confirmed(started.id, update)


def _table(found: ConfirmationOut) -> tuple[list[str], Iterator[list[Any]]]:
    columns = ["key"]
    for name in found.metrics:
        columns += [f"{name} selected", "confirmed", "95 % interval", "drop", "seeds"]
    return columns, (
        [each.key, *(cell for one in each.metrics for cell in _cells(one))] for each in found.architectures
    )


def _cells(one: ConfirmedMetric) -> list[Any]:
    interval = None if one.ci_low is None or one.ci_high is None else f"{one.ci_low:.5g} to {one.ci_high:.5g}"
    return [one.selected, one.mean, interval, one.drop, len(one.values)]
