"""``frontier jobs``"""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from service.cli.common import AsJson, Url, connect, show_fields, show_json, show_table
from service.core.states import State
from service.wire.jobs import JobKind

app = typer.Typer(help="The queue of work.", no_args_is_help=True)

Id = Annotated[int, typer.Argument(min=1, help="Id of the job.")]


@app.command("list")
def list_jobs(
    state: Annotated[State | None, typer.Option(help="Only those in this state.", case_sensitive=False)] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only those of this kind.")] = None,
    study: Annotated[str | None, typer.Option(help="Only those of this study.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with connect(url) as client:
        jobs = list(islice(client.jobs.list(state=state, kind=kind, study=study), limit))
    if as_json:
        show_json(jobs)
        return
    show_table(
        ["id", "kind", "state", "study", "worker", "attempts", "reason"],
        ((j.id, j.kind, j.state, j.study, j.worker, j.attempts, j.reason) for j in jobs),
    )


@app.command("show")
def show(job: Id, url: Url = None, as_json: AsJson = False) -> None:
    """Show a job."""
    with connect(url) as client:
        show_fields(client.jobs.get(job), as_json)


@app.command("cancel")
def cancel(job: Id, url: Url = None, as_json: AsJson = False) -> None:
    """Cancel a job."""
    with connect(url) as client:
        show_fields(client.jobs.cancel(job), as_json)
