"""Scores of a study's architectures: batches are posted, awaited and written out, in constant memory."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, cast, final, get_args

import numpy as np
import typer
from rich.progress import Progress, TaskID

from search_spaces.space import Genes, SearchSpace, Unsupported
from service.cli.common import CommandError, connect, progress_bar, show_json, show_table
from service.client import Client, JobFailed
from service.client.tables import SUFFIXES, format_of
from service.core.errors import Invalid
from service.core.scoring import AGGREGATES, LARGEST_POOL, columns
from service.core.spaces import build_space
from service.exchange import Errors, listed
from service.wire.exchange import TableFormat
from service.wire.jobs import ScoredOut, ScoreOut
from service.wire.studies import ArchitectureRef, ScoreIn

BATCH = 256
"""Architectures in one request."""
IN_FLIGHT = 4
"""Batches that wait for their scores at a time: workers find the next one while the last one is read."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Source:
    """Which architectures: ``sample`` of them drawn with ``seed``, or those of a file."""

    sample: int = 0
    seed: int = 0
    file: Path | None = None
    kind: TableFormat = "ndjson"

    @classmethod
    def of_file(cls, file: Path, given: str | None) -> Self:
        """Raises a usage error for a format that is none or cannot be told."""
        kind = given or format_of(file)
        if kind is None:
            raise typer.BadParameter(
                f"cannot be told by the name ({', '.join(SUFFIXES)}): say it", param_hint="--format"
            )
        if kind not in get_args(TableFormat):
            raise typer.BadParameter(f"must be one of {', '.join(get_args(TableFormat))}", param_hint="--format")
        if not file.is_file():
            raise typer.BadParameter(f"there is no file {file}", param_hint="--file")
        return cls(file=file, kind=cast(TableFormat, kind))

    def check(self, space: SearchSpace) -> int:
        """How many rows there are. Reads all of a file: nothing is scored if a row is wrong."""
        if self.file is None:
            return len(space.sample(self.sample, np.random.default_rng(self.seed)))
        errors, rows = Errors(), 0
        try:
            with self.file.open("rb") as opened:
                for part in listed(space, self.kind, opened, errors):
                    rows += len(part.genes)
        except Invalid as error:
            raise CommandError(f"nothing was scored: {self.file}: {error.field}: {error.message}") from error
        if errors.total:
            for each in errors.first()[:_SHOWN]:
                typer.echo(f"row {each.row}, {each.field}: {each.message}".replace(", :", ":"), err=True)
            raise CommandError(f"nothing was scored: {errors.total} errors in {self.file}")
        if not rows:
            raise CommandError(f"{self.file} holds no architectures")
        return rows

    def batches(self, space: SearchSpace) -> Iterator[Genes]:
        """At most `BATCH` rows at a time, in order."""
        if self.file is None:
            yield from _cut(space.sample(self.sample, np.random.default_rng(self.seed)))
            return
        with self.file.open("rb") as opened:
            for part in listed(space, self.kind, opened, Errors()):
                yield from _cut(part.genes)


@final
@dataclass(slots=True)
class _Tally:
    """What is told in the end, of one proxy."""

    scored: int = 0
    undefined: int = 0
    lowest: float | None = None
    highest: float | None = None

    def add(self, score: float | None) -> None:
        if score is None:
            self.undefined += 1
            return
        self.scored += 1
        self.lowest = score if self.lowest is None else min(self.lowest, score)
        self.highest = score if self.highest is None else max(self.highest, score)


@final
@dataclass(slots=True)
class _Run:
    """One command: what it asks for, and what came of it."""

    client: Client
    study: str
    asked: ScoreIn
    space: SearchSpace
    tallies: dict[str, _Tally] = field(init=False)
    jobs: set[int] = field(default_factory=set)
    architectures: int = 0
    reused: int = 0
    unscored: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tallies = {name: _Tally() for name in self.asked.proxies}

    def post(self, genes: Genes, proxies: Sequence[str], **given: Any) -> ScoreOut:
        refs = [ArchitectureRef(genes=row) for row in genes.tolist()]
        body = self.asked.model_copy(update={"architectures": refs, "proxies": list(proxies), **given})
        return self.client.studies.score(self.study, body)

    def wait(self, jobs: Sequence[int]) -> None:
        for job in jobs:
            try:
                self.client.jobs.wait(job)
            except JobFailed as failed:
                reason = failed.job.reason or failed.job.state
                self.failures[reason] = self.failures.get(reason, 0) + 1

    def told(self, rows: Sequence[ScoredOut], genes: Genes) -> list[dict[str, Any]]:
        """Counts what is known of architectures (n, d), of which equal ones are told once; gives an object for each."""
        by_key = {row.key: row for row in rows}
        columns_ = {"key": self.space.keys(genes), "config": self.space.to_configs(genes)}
        with suppress(Unsupported):
            columns_["arch"] = self.space.notation(genes)
        objects = []
        for values in zip(*columns_.values(), strict=True):
            one = dict(zip(columns_, values, strict=True))
            row = by_key[one["key"]]
            found = {**row.scores, **dict.fromkeys(row.undefined)}
            for name, tally in self.tallies.items():
                if name in found:
                    tally.add(found[name])
            missing = [name for name in self.tallies if name not in found]
            self.unscored += bool(missing)
            self.architectures += 1
            said = row.model_dump(mode="json", exclude={"key"} if row.intervals else {"key", "intervals"})
            objects.append({"row": self.architectures, **one, **said} | ({"unscored": missing} if missing else {}))
        return objects


def score_study(
    study: str, asked: ScoreIn, source: Source, output: str | None, *, detach: bool, url: str | None, as_json: bool
) -> None:
    """Scores a study's architectures, waits, writes them out and says what came of it."""
    pooled = [name for name in asked.proxies if name in AGGREGATES]
    with connect(url) as client:
        spec = client.spaces.get(client.studies.get(study).space)
        space = build_space(spec.plugin, spec.options, spec.identity)
        total = source.check(space)
        if pooled and total > LARGEST_POOL:
            raise CommandError(f"{pooled[0]} ranks at most {LARGEST_POOL} architectures, these are {total}")
        run = _Run(client, study, asked, space)
        if detach:
            for genes in source.batches(space):
                queued = run.post(genes, columns(asked.proxies))
                run.jobs.update(queued.jobs)
                run.reused += queued.reused
            if as_json:
                show_json({"jobs": sorted(run.jobs), "reused": run.reused})
            else:
                typer.echo(f"{len(run.jobs)} jobs queued; {run.reused} of {total} architectures needed none")
            return
        with _opened(output) as file, progress_bar() as bar:
            task = bar.add_task("scoring", total=total, note="")
            try:
                _stream(run, source, None if pooled else file, bar, task, bool(pooled))
            except KeyboardInterrupt:
                raise CommandError("interrupted; what is scored is kept: the same command continues") from None
            pools = _pool(run, source, pooled, file) if pooled and not run.unscored else {}
    _tell(run, pools, output, as_json)


def _stream(run: _Run, source: Source, file: IO[str] | None, bar: Progress, task: TaskID, pooled: bool) -> None:
    """Posts batches, a few ahead of the one that is awaited and written out."""
    proxies = columns(run.asked.proxies)
    waiting: deque[tuple[Genes, Sequence[int]]] = deque()
    batches, began = source.batches(run.space), time.monotonic()
    while True:
        while len(waiting) < IN_FLIGHT and (genes := next(batches, None)) is not None:
            queued = run.post(genes, proxies)
            run.reused += queued.reused
            waiting.append((genes, queued.jobs))
        if not waiting:
            return
        genes, jobs = waiting.popleft()
        run.jobs.update(jobs)
        run.wait(jobs)
        answer = run.post(genes, proxies, rows=True, queue=False)
        if pooled:
            told = {row.key: {*row.scores, *row.undefined} for row in answer.rows or ()}
            run.unscored += sum(not set(proxies) <= names for names in told.values())
        else:
            _write(file, run.told(answer.rows or (), genes))
        seconds = max(time.monotonic() - began, 1e-9)
        bar.advance(task, len(genes))
        bar.update(task, note=f"{bar.tasks[task].completed / seconds:.3g} architectures a second")


def _pool(run: _Run, source: Source, pooled: Sequence[str], file: IO[str] | None) -> dict[str, int]:
    """Everything scored is ranked together; then all rows are written."""
    every = np.concatenate(list(source.batches(run.space)))
    answer = run.post(every, run.asked.proxies, rows=True, queue=False)
    _write(file, run.told(answer.rows or (), every))
    pools: dict[str, int] = answer.pools
    return {name: pools[name] for name in pooled if name in pools}


def _tell(run: _Run, pools: dict[str, int], output: str | None, as_json: bool) -> None:
    summary = {
        "study": run.study,
        "architectures": run.architectures,
        "reused": run.reused,
        "jobs": len(run.jobs),
        "proxies": {
            name: {"scored": t.scored, "undefined": t.undefined, "lowest": t.lowest, "highest": t.highest}
            for name, t in run.tallies.items()
        },
        "pools": pools,
        "unscored": run.unscored,
    }
    if output == "-":
        pass  # Standard output is the rows.
    elif as_json:
        show_json(summary)
    else:
        show_table(
            ["proxy", "scored", "undefined", "lowest", "highest"],
            ([name, t.scored, t.undefined, t.lowest, t.highest] for name, t in run.tallies.items()),
        )
        for name, ranked in pools.items():
            typer.echo(f"{name} ranks {ranked} architectures among each other")
        typer.echo(f"{run.reused} needed no scoring; all scores are measurements of the study")
    if run.unscored:
        reasons = "; ".join(f"{times} jobs: {why}" if times > 1 else why for why, times in run.failures.items())
        raise CommandError(
            f"{run.unscored} architectures were not scored: {reasons or 'their jobs ended without scores'}"
        )


# ---------------------------------------------------------------------- rows in and out


def _cut(genes: Genes) -> Iterator[Genes]:
    for start in range(0, len(genes), BATCH):
        yield genes[start : start + BATCH]


@contextmanager
def _opened(output: str | None) -> Iterator[IO[str] | None]:
    if output is None:
        yield None
    elif output == "-":
        yield sys.stdout
    else:
        try:
            file = Path(output).open("w", encoding="utf-8")  # noqa: SIM115 - closed below
        except OSError as error:
            raise typer.BadParameter(f"{output} cannot be written: {error.strerror}", param_hint="--out") from error
        with file:
            yield file


def _write(file: IO[str] | None, objects: Sequence[dict[str, Any]]) -> None:
    if file is None:
        return
    for each in objects:
        file.write(json.dumps(each, separators=(",", ":")) + "\n")
    file.flush()
