"""``frontier search``"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from service.cli.common import (
    AsJson,
    Url,
    body,
    connect,
    parse_json,
    progress_bar,
    show_fields,
    show_json,
    show_table,
)
from service.client import Client
from service.core.states import SearchState
from service.wire.searches import SearchIn, SearchOut

app = typer.Typer(help="Searches.", no_args_is_help=True)

Id = Annotated[int, typer.Argument(min=1, help="Id of the search.")]
LIVE = frozenset({SearchState.RUNNING, SearchState.PAUSED})
LOOK_S = 0.5


@app.command("start")
def start(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    designer: Annotated[str, typer.Option(help="Designer plug-in, for example guided or random.")] = "guided",
    budget: Annotated[int, typer.Option(min=1, help="Evaluations.")] = 100,
    name: Annotated[str | None, typer.Option(help="Name, unique in the study.")] = None,
    options: Annotated[str, typer.Option(help="The designer's options: a JSON object, or @FILE.")] = "{}",
    batch: Annotated[int | None, typer.Option(min=1, help="Trials per ask.")] = None,
    slack: Annotated[int | None, typer.Option(min=0, help="Ask when at most so many trials are open.")] = None,
    probe_share: Annotated[float | None, typer.Option(min=0, max=1, help="Share drawn to audit predictors.")] = None,
    max_failures: Annotated[int | None, typer.Option(min=0, help="Failures before it gives up.")] = None,
    share: Annotated[float | None, typer.Option(help="Part of the workers' time, beside 1 of other searches.")] = None,
    priority: Annotated[int | None, typer.Option(min=-9, max=9, help="Smaller is served first.")] = None,
    watching: Annotated[bool, typer.Option("--watch", help="Wait for its end.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Start a search."""
    wanted = body(
        SearchIn,
        name=name,
        designer=designer,
        options=parse_json(options, "--options"),
        budget=budget,
        batch=batch,
        slack=slack,
        probe_share=probe_share,
        max_failures=max_failures,
        share=share,
        priority=priority,
    )
    with connect(url) as client:
        search = client.searches.create(study, wanted)
        show_fields(_watched(client, search) if watching else search, as_json)


@app.command("list")
def list_searches(
    study: Annotated[str | None, typer.Option(help="Only those of this study.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List searches."""
    with connect(url) as client:
        searches = list(client.searches.list(study))
    if as_json:
        show_json(searches)
        return
    show_table(
        ["id", "study", "name", "designer", "state", "evaluated", "budget", "hypervolume"],
        ((s.id, s.study, s.name, s.designer, s.state, _counted(s), s.budget, s.hypervolume) for s in searches),
    )


@app.command("show")
def show(search: Id, url: Url = None, as_json: AsJson = False) -> None:
    """Show a search."""
    with connect(url) as client:
        show_fields(client.searches.get(search), as_json)


@app.command("watch")
def watch(search: Id, url: Url = None, as_json: AsJson = False) -> None:
    """Follow a search to its end."""
    with connect(url) as client:
        show_fields(_watched(client, client.searches.get(search)), as_json)


@app.command("pause")
def pause(search: Id, url: Url = None, as_json: AsJson = False) -> None:
    """Let a search ask no more until it is resumed."""
    with connect(url) as client:
        show_fields(client.searches.pause(search), as_json)


@app.command("resume")
def resume(search: Id, url: Url = None, as_json: AsJson = False) -> None:
    """Resume a paused search."""
    with connect(url) as client:
        show_fields(client.searches.resume(search), as_json)


@app.command("cancel")
def cancel(search: Id, url: Url = None, as_json: AsJson = False) -> None:
    """End a search for good."""
    with connect(url) as client:
        show_fields(client.searches.cancel(search), as_json)


@app.command("extend")
def extend(
    search: Id,
    budget: Annotated[int, typer.Option(min=1, help="Evaluations in all, more than before.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Give a search a larger budget; a finished one goes on from where it stood."""
    with connect(url) as client:
        show_fields(client.searches.extend(search, budget), as_json)


def _watched(client: Client, search: SearchOut) -> SearchOut:
    with progress_bar() as bar:
        task = bar.add_task(f"search {search.name}", total=search.budget, note="")
        while True:
            volume = "" if search.hypervolume is None else f"hypervolume {search.hypervolume:.4f}"
            bar.update(task, completed=_counted(search), note=f"{search.state.lower()} {volume}")
            if search.state not in LIVE:
                return search
            time.sleep(LOOK_S)
            search = client.searches.get(search.id)


def _counted(search: SearchOut) -> int:
    return search.evaluated
