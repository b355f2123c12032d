"""``frontier studies``"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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
    wait_all,
)
from service.wire.spaces import Resources, Task
from service.wire.studies import CloneIn, ConstraintSpec, EvaluatorSpec, FrontOut, ObjectiveIn, StudyIn

app = typer.Typer(help="Studies.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the study.")]
_OBJECTIVE = re.compile(r"(?:(min|max):)?([^=\[]+)(?:\[(.+),(.+)\])?")
_CONSTRAINT = re.compile(r"([^<>=]+)(<=|>=)(.+)")


@app.command("list")
def list_studies(url: Url = None, as_json: AsJson = False) -> None:
    """List studies."""
    with connect(url) as client:
        studies = list(client.studies.list())
    if as_json:
        show_json(studies)
        return
    show_table(
        ["name", "space", "data set", "objectives", "searches", "measurements"],
        (
            (s.name, s.space, s.task.dataset, ", ".join(o.metric for o in s.objectives), s.searches, s.measurements)
            for s in studies
        ),
    )


@app.command("show")
def show(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """Show a study."""
    with connect(url) as client:
        show_fields(client.studies.get(name), as_json)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name for the study.")],
    space: Annotated[str, typer.Option(help="Name of its search space.")],
    dataset: Annotated[str, typer.Option(help="Name of the data set to measure on.")],
    objective: Annotated[
        list[str], typer.Option(help="METRIC, min:METRIC or max:METRIC, with bounds METRIC[IDEAL,NADIR]; repeat it.")
    ],
    constraint: Annotated[list[str] | None, typer.Option(help="METRIC<=VALUE or METRIC>=VALUE; repeat it.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Measured too, without being an objective.")] = None,
    supernet: Annotated[str | None, typer.Option(help="Super-network whose weights are used.")] = None,
    evaluator: Annotated[str, typer.Option(help="Evaluator plug-in.")] = "supernet",
    options: Annotated[str, typer.Option(help="The evaluator's options: a JSON object, or @FILE.")] = "{}",
    seed: Annotated[int, typer.Option(min=0, help="All searches derive their randomness from it.")] = 0,
    device_type: DeviceType = None,
    memory_mb: MemoryMb = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Create a study."""
    wanted = body(
        StudyIn,
        name=name,
        space=space,
        task=body(Task, dataset=dataset),
        objectives=[_objective(text) for text in objective],
        constraints=[_constraint(text) for text in constraint or []],
        metrics=metric or [],
        supernet=supernet,
        evaluator=EvaluatorSpec(name=evaluator, options=parse_json(options, "--options")),
        seed=seed,
        resources=body(Resources, device_type=device_type, memory_mb=memory_mb),
    )
    with connect(url) as client:
        show_fields(client.studies.create(wanted), as_json)


@app.command("clone")
def clone(
    study: Name,
    name: Annotated[str, typer.Argument(help="Name for the clone.")],
    objective: Annotated[
        list[str] | None, typer.Option(help="As for `create`; the objectives of the study by default. Repeat it.")
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="METRIC<=VALUE or METRIC>=VALUE; those of the study by default. Repeat it.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Measured too; by default all that the study measures. Repeat it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="All searches derive their randomness from it.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Create a study with what another one has measured and other objectives."""
    wanted = body(
        CloneIn,
        name=name,
        objectives=[_objective(text) for text in objective] if objective else None,
        constraints=[_constraint(text) for text in constraint] if constraint else None,
        metrics=metric or None,
        seed=seed,
    )
    with connect(url) as client:
        show_fields(client.studies.clone(study, wanted), as_json)


@app.command("front")
def front(
    name: Name,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metrics that span the front; the objectives by default.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show the Pareto front."""
    with connect(url) as client:
        found = client.studies.front(name, metric)
    if as_json:
        show_json(found)
        return
    show_front(found)


@app.command("test")
def measure_test(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """Measure the front on the test split, once."""
    with connect(url) as client:
        wait_all(client, [job.id for job in client.studies.test_front(name)], f"testing the front of {name}")
        found = client.studies.front(name)
    if as_json:
        show_json(found)
        return
    show_front(found)


def show_front(found: FrontOut) -> None:
    """A front as a table, with what its hypervolume means."""
    tested = sorted({name for point in found.points for name in point.test_metrics if "@" not in name})
    metrics = sorted({name for point in found.points for name in point.metrics}, key=_rank(found.metrics))
    rows = (
        [
            point.key,
            *(point.metrics.get(name) for name in metrics),
            *(point.test_metrics.get(name) for name in tested),
            point.search,
        ]
        for point in found.points
    )
    show_table(["key", *metrics, *(f"test {name}" for name in tested), "search"], rows)
    bounds = ", ".join(f"{s.metric} [{s.bounds[0]:g}, {s.bounds[1]:g}]" for s in found.scaling)
    if found.hypervolume is not None:
        typer.echo(f"hypervolume {found.hypervolume:.4f}, scaled by (ideal, nadir): {bounds}; reference point 1.1 each")
    typer.echo(f"{len(found.points)} of {found.candidates} measured architectures")


def _rank(first: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    return lambda name: (first.index(name) if name in first else len(first), name)


def _objective(text: str) -> ObjectiveIn:
    match = _OBJECTIVE.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no METRIC, min:METRIC or max:METRIC", param_hint="--objective")
    way, metric, ideal, nadir = match.groups()
    direction = {"min": "minimise", "max": "maximise", None: None}[way]
    bounds = None if ideal is None else (ideal, nadir)
    made: ObjectiveIn = body(ObjectiveIn, metric=metric, direction=direction, bounds=bounds)
    return made


def _constraint(text: str) -> ConstraintSpec:
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no METRIC<=VALUE or METRIC>=VALUE", param_hint="--constraint")
    metric, relation, value = match.groups()
    made: ConstraintSpec = body(ConstraintSpec, metric=metric, **{"upper" if relation == "<=" else "lower": value})
    return made
