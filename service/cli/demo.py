"""``frontier demo``: a whole search, from an untrained super-network to exported files, on a server of its own.

All of it goes through the typed client: these are the REST calls that anyone would make. Everything has a name that
follows from the data set, the seed and the number of evaluations, so a demo that was interrupted goes on where it
was, and one that was finished prints what is stored.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from service.cli.common import CommandError, Home, out, progress_bar, settings_with, wait
from service.cli.demo_report import Report, front_rows, print_report
from service.cli.demo_server import running_server
from service.client import Client
from service.core.states import SearchState, State
from service.wire.searches import AuditIn, RankAudit, SearchIn, SearchOut
from service.wire.spaces import DatasetOut, SpaceIn, SupernetIn, SupernetOut, Task
from service.wire.studies import ExportIn, FrontOut, FrontPoint, ObjectiveIn, StudyIn, StudyOut

EXPORT_SHARE = 0.5
"""The exported network has at most this share of the largest network's MACs."""
TRAIN_STEPS = 330
"""Steps of training aimed at, whatever the size of the data set; at least 3 and at most 60 epochs."""
LOOK_S = 0.3
TERMINAL = frozenset({SearchState.DONE, SearchState.FAILED, SearchState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Names:
    """What the demo's resources are called."""

    space: str
    supernet: str
    study: str

    @staticmethod
    def of(dataset: DatasetOut, seed: int, supernet_seed: int, evaluations: int) -> Names:
        stem = f"{dataset.name[:24]}-{dataset.digest[:6]}"
        return Names(stem, f"{stem}-s{supernet_seed}", f"{stem}-s{seed}-n{evaluations}")


def demo(
    once: Annotated[bool, typer.Option("--once", help="End when done, instead of leaving the server running.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the results as JSON to this file.")] = None,
    evaluations: Annotated[
        int, typer.Option(min=20, max=100_000, help="Evaluations of each of the two searches.")
    ] = 150,
    dataset: Annotated[
        str, typer.Option(help="digits, npz:FILE, cifar10:DIR, idx:DIR or folder:DIR (a folder of class folders).")
    ] = "digits",
    seed: Annotated[int, typer.Option(min=0, help="Seed of training and of both searches.")] = 0,
    home: Home = None,
) -> None:
    """Run a real search from end to end on this machine: train a super-network, search, predict, export."""
    settings = settings_with(home=home)
    began = time.monotonic()
    with running_server(settings.home, dataset) as server, Client(server.url, settings.bearer) as client:
        out.print(f"Frontier is running at {server.url}")
        data = announced(client, dataset, server.process)
        result = run(client, data, evaluations, seed)
        result.seconds = time.monotonic() - began
        print_report(out, result)
        if report is not None:
            report.write_text(result.to_json() + "\n")
            out.print(f"Written to {report}")
        if not once:
            out.print(
                f"\n[bold]The dashboard is at {server.url}/studies/{result.study}[/bold]  (Ctrl-C ends the server)"
            )
            server.wait()


def run(client: Client, data: DatasetOut, evaluations: int, seed: int) -> Report:
    """The whole job on a server that has the data set."""
    supernet, study = prepare(client, data, evaluations, seed)
    train(client, supernet)
    guided, uniform = search_both(client, study.name, evaluations)
    test(client, study.name)
    front = client.studies.front(study.name)
    audit = audit_on(client, study.name, guided, uniform)
    chosen = best_under(front, study)
    exported = wait(client, client.studies.export(study.name, chosen.key, ExportIn()), "exporting")
    differences = (exported.result or {})["max_abs_diff"]
    return Report(
        study=study.name,
        evaluations=guided.evaluated,
        front=front_rows(front),
        scaling=[objective.model_dump(mode="json") for objective in front.scaling],
        hypervolume=guided.hypervolume,
        hypervolume_random=uniform.hypervolume,
        predictor=audit.model_dump(),
        exported=chosen.key,
        export={"onnx_max_abs_diff": differences["onnx"], "torch_max_abs_diff": differences["torch"]},
        files=(exported.result or {})["files"],
    )


def announced(client: Client, spec: str, server: subprocess.Popen[bytes] | None, wait_s: float = 60.0) -> DatasetOut:
    """The data set of this specification, once a worker has announced it."""
    head, equals, _ = spec.partition("=")
    name = head if equals and ":" not in head else spec.partition(":")[0]
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and (server is None or server.poll() is None):
        for worker in client.workers.list():
            for found in worker.datasets if worker.alive else ():
                if found.name == name:
                    return found
        time.sleep(LOOK_S)
    raise CommandError(f"no worker has announced data set {name!r}; the server's logs say why")


def prepare(
    client: Client, data: DatasetOut, evaluations: int, seed: int, *, supernet_seed: int | None = None
) -> tuple[SupernetOut, StudyOut]:
    """The space, the super-network (not trained yet) and the study, scaled to the data set."""
    from search_spaces.mobilenetv3 import scaled

    trained_with = seed if supernet_seed is None else supernet_seed
    names = Names.of(data, seed, trained_with, evaluations)
    channels, height, width = data.shape
    options = scaled((channels, height, width), data.classes)
    client.spaces.create(SpaceIn(name=names.space, plugin="mobilenetv3", options=options))
    task = Task(dataset=data.name, digest=data.digest)
    epochs = min(max(math.ceil(TRAIN_STEPS * 64 / data.counts["train"]), 3), 60)
    recipe = {"epochs": epochs}
    supernet = client.supernets.create(
        SupernetIn(name=names.supernet, space=names.space, task=task, recipe=recipe, seed=trained_with)
    )
    study = client.studies.create(
        StudyIn(
            name=names.study,
            space=names.space,
            task=task,
            objectives=[ObjectiveIn(metric="error"), ObjectiveIn(metric="macs")],
            metrics=["params", "latency_ms"],
            supernet=names.supernet,
            seed=seed,
        )
    )
    return supernet, study


def train(client: Client, supernet: SupernetOut) -> None:
    """Trains the super-network, if it is not trained yet."""
    if supernet.state != "READY":
        wait(client, client.supernets.train(supernet.name), "training the super-network")


def search_both(client: Client, study: str, evaluations: int) -> tuple[SearchOut, SearchOut]:
    """A predictor-guided and a random search of the same size, side by side on the same workers."""
    # Small demos must come to the predictor too.
    options = {"guided": {"initial": min(20, max(10, evaluations // 4))}, "random": {}}
    searches = [
        client.searches.create(study, SearchIn(name=name, designer=name, options=given, budget=evaluations))
        for name, given in options.items()
    ]
    with progress_bar() as bar:
        tasks = [bar.add_task(f"{search.name} search", total=evaluations, note="") for search in searches]
        while True:
            searches = [client.searches.get(search.id) for search in searches]
            for task, search in zip(tasks, searches, strict=True):
                volume = "" if search.hypervolume is None else f"hypervolume {search.hypervolume:.4f}"
                bar.update(task, completed=search.evaluated, note=volume)
            if all(search.state in TERMINAL for search in searches):
                break
            time.sleep(LOOK_S)
    for search in searches:
        if search.state is not SearchState.DONE:
            raise CommandError(f"search {search.name!r} ended {search.state}: {search.reason}")
    return searches[0], searches[1]


def test(client: Client, study: str) -> None:
    """Measures the front on the test split: once, and never as an objective."""
    for job in client.studies.test_front(study):
        client.jobs.wait(job.id)


def audit_on(client: Client, study: str, guided: SearchOut, uniform: SearchOut) -> RankAudit:
    """How well the guided search's last predictor orders the random search's architectures, which it never saw."""
    for predictor in client.predictors.list(study, guided.id):
        if predictor.state is State.SUCCEEDED and predictor.metric == "error":
            job = client.jobs.wait(client.predictors.audit(predictor.id, AuditIn(search=uniform.id)).id)
            return RankAudit.model_validate((job.result or {})["audit"])
    raise CommandError("the guided search fitted no predictor: it needs more evaluations")


def best_under(front: FrontOut, study: StudyOut) -> FrontPoint:
    """The most accurate network of the front with at most `EXPORT_SHARE` of the largest network's MACs."""
    largest = next(objective.bounds[1] for objective in study.objectives if objective.metric == "macs")
    small = [point for point in front.points if point.metrics["macs"] <= EXPORT_SHARE * largest]
    candidates: Sequence[FrontPoint] = small or [min(front.points, key=lambda point: point.metrics["macs"])]
    return min(candidates, key=lambda point: point.metrics["error"])
