"""``frontier jobs``"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, TypeAlias

import typer

from service.cli.common import AsJson, CommandError, Url, body, connect, err, out, show_fields, show_json, show_table
from service.core.failures import Failure
from service.core.states import State
from service.wire.jobs import JobKind, JobOut, JobsIn, LeftAlone

app = typer.Typer(help="The queue of work: what waits, is at work, failed.", no_args_is_help=True)

Id = Annotated[int, typer.Argument(min=1, help="Id of the job.")]
Ids: TypeAlias = Annotated[list[int] | None, typer.Argument(min=1, metavar="[JOB]...", help="Ids of jobs.")]
OfState: TypeAlias = Annotated[State | None, typer.Option("--state", help="In this state.", case_sensitive=False)]
Kind: TypeAlias = Annotated[JobKind | None, typer.Option(help="Of this kind.")]
Study: TypeAlias = Annotated[str | None, typer.Option(help="Of this study.")]
Search: TypeAlias = Annotated[int | None, typer.Option(min=1, help="Of the search with this id.")]
OfFailure: TypeAlias = Annotated[Failure | None, typer.Option("--failure", help="Whose last failure was of it.")]
Worker: TypeAlias = Annotated[str | None, typer.Option(help="That this worker has, or had last.")]
Group: TypeAlias = Annotated[str | None, typer.Option(help="Of this group of failures: see `frontier jobs failures`.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Change nothing, and say what would be done.")]


@app.command("list")
def list_jobs(
    state: OfState = None,
    kind: Kind = None,
    study: Study = None,
    search: Search = None,
    worker: Worker = None,
    failure: OfFailure = None,
    dead: Annotated[bool, typer.Option("--dead", help="Whose attempts are used up: FAILED or LOST.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with connect(url) as client:
        found = client.jobs.list(
            state=state, kind=kind, study=study, search=search, worker=worker, failure=failure, dead=dead
        )
        jobs = list(islice(found, limit))
    if as_json:
        show_json(jobs)
        return
    show_table(
        ["id", "kind", "state", "study", "search", "worker", "attempts", "waits until", "failure", "reason"],
        (
            (
                job.id,
                job.kind,
                job.state,
                job.study,
                job.search,
                job.worker,
                job.attempts,
                _waits_until(job),
                job.failure,
                job.reason,
            )
            for job in jobs
        ),
    )


@app.command("show")
def show(job: Id, url: Url = None, as_json: AsJson = False) -> None:
    """Show a job, with the traceback if it failed."""
    with connect(url) as client:
        found = client.jobs.get(job)
    show_fields(found, as_json, frozenset({"traceback"}))
    if found.traceback and not as_json:
        # As it is: tables would break its lines, and brackets are no markup.
        typer.echo(f"\n{found.traceback.rstrip()}")


@app.command("failures")
def failures(
    kind: Kind = None,
    study: Study = None,
    search: Search = None,
    since: Annotated[
        datetime | None, typer.Option(help="From this time on, UTC: 2026-01-31, or 2026-01-31T08:00:00.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List what failed, grouped by reason."""
    with connect(url) as client:
        moment = None if since is None else since.replace(tzinfo=UTC)
        found = client.jobs.failures(kind=kind, study=study, search=search, since=moment)
    if as_json:
        show_json(found)
        return
    show_table(
        ["group", "kind", "failure", "dead", "waiting", "last", "job", "reason", "traceback ends"],
        (
            (
                each.group,
                each.kind,
                each.failure,
                each.dead,
                each.waiting,
                f"{each.last_at:%Y-%m-%d %H:%M}",
                each.job,
                each.reason,
                each.last_line,
            )
            for each in found.groups
        ),
    )
    if found.more:
        err.print(f"Only the newest {found.looked_at:,} failures were looked at: narrow them down to see the others.")


@app.command("retry")
def retry(
    jobs: Ids = None,
    state: OfState = None,
    kind: Kind = None,
    study: Study = None,
    search: Search = None,
    worker: Worker = None,
    failure: OfFailure = None,
    group: Group = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Try jobs again whose attempts are used up (FAILED or LOST): those named, or all that pass the filters."""
    wanted = _wanted(jobs, state, kind, study, search, worker, failure, group)
    with connect(url) as client:
        done = client.jobs.retry_all(wanted.model_copy(update={"dry_run": True}))
        if not dry_run and done.retried:
            _confirm(f"Try {_count(done.retried)} again", len(done.retried), yes)
            done = client.jobs.retry_all(wanted)
    if as_json:
        show_json(done)
        return
    out.print(f"{_count(done.retried)} {'would wait' if dry_run else 'wait'} again")
    _show_left(done.left_alone)


@app.command("cancel")
def cancel(
    jobs: Ids = None,
    state: OfState = None,
    kind: Kind = None,
    study: Study = None,
    search: Search = None,
    worker: Worker = None,
    failure: OfFailure = None,
    group: Group = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs that wait or are at work: those named, or all that pass the filters."""
    wanted = _wanted(jobs, state, kind, study, search, worker, failure, group)
    with connect(url) as client:
        done = client.jobs.cancel_all(wanted.model_copy(update={"dry_run": True}))
        open_jobs = [*done.cancelled, *done.stopping]
        if not dry_run and open_jobs:
            _confirm(f"Cancel {_count(open_jobs)}", len(open_jobs), yes)
            done = client.jobs.cancel_all(wanted)
    if as_json:
        show_json(done)
        return
    out.print(f"{_count(done.cancelled)} {'would be cancelled' if dry_run else 'cancelled'}")
    if done.stopping:
        out.print(f"{_count(done.stopping)} at work: their workers hear of it with the next heartbeat")
    _show_left(done.left_alone)


def _wanted(
    jobs: list[int] | None,
    state: State | None,
    kind: JobKind | None,
    study: str | None,
    search: int | None,
    worker: str | None,
    failure: Failure | None,
    group: str | None,
) -> JobsIn:
    given = {
        "ids": jobs or None,
        "state": state,
        "kind": kind,
        "study": study,
        "search": search,
        "worker": worker,
        "failure": failure,
        "group": group,
    }
    if all(value is None for value in given.values()):
        raise typer.BadParameter("name jobs, or give at least one of the filters")
    wanted: JobsIn = body(JobsIn, **given)
    return wanted


def _confirm(question: str, count: int, yes: bool) -> None:
    """Asks before more than one job is changed; nobody to ask is an error."""
    if yes or count == 1:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question}? Nobody is there to ask: say so with --yes")
    typer.confirm(f"{question}?", abort=True, err=True)


def _count(jobs: list[int]) -> str:
    return f"job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs):,} jobs"


def _show_left(left: list[LeftAlone]) -> None:
    if left:
        show_table(["job", "left alone because"], ((each.job, each.reason) for each in left))


def _waits_until(job: JobOut) -> str | None:
    later = job.state is State.QUEUED and job.not_before is not None and job.not_before > datetime.now(UTC)
    return f"{job.not_before:%H:%M:%S} UTC" if later else None
