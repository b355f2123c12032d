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
from service.core.objectives import Direction
from service.wire.population import PopulationOut, ShiftOut
from service.wire.spaces import Resources, Task
from service.wire.studies import CloneIn, ConstraintSpec, EvaluatorSpec, FrontOut, ObjectiveIn, StudyIn

app = typer.Typer(help="Studies.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the study.")]
_OBJECTIVE = re.compile(r"(?:(min|max):)?([^=\[]+)(?:\[(.+),(.+)\])?")
_SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9)
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


@app.command("population")
def population(
    name: Name,
    metric: Annotated[str, typer.Option(help="Metric whose values are described.")],
    rules: Annotated[
        str | None,
        typer.Option(help='A restriction beside the whole: JSON {"choice": [options left, ...], ...}, or @FILE.'),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="With what searches chose for its value; the distribution is not the space's.")
    ] = False,
    most: Annotated[int, typer.Option("--choices", min=1, help="Choices shown, those that shift it the most.")] = 10,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show how a metric is spread over the space, and which choices shift it.

    The shares say how many of the measured architectures are at least as good as a value, with a 95 % bootstrap band.
    """
    with connect(url) as client:
        kept = parse_json(rules, "--rules") if rules else None
        found = client.studies.population(name, metric, rows="all" if every else "drawn", rules=kept)
    if as_json:
        show_json(found)
        return
    show_population(found, most)


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


def show_population(found: PopulationOut, most: int) -> None:
    """A population as tables: shares at a few values, then the choices that shift it the most."""
    parts = [("all", found.whole)] + ([("left by the rules", found.restricted)] if found.restricted else [])
    show_table(
        ["", "architectures", "best", "median", "mean", "95 % interval"],
        ([name, s.n, s.best, s.median, s.mean, f"{s.mean_low:.4g} to {s.mean_high:.4g}"] for name, s in parts),
    )
    better = "at most" if found.direction is Direction.MINIMISE else "at least"
    rows = []
    for name, spread in parts:
        curve = spread.curve
        for wanted in _SHARES:
            at = min(range(len(curve.share)), key=lambda i: abs(curve.share[i] - wanted))
            band = f"{curve.low[at]:.1%} to {curve.high[at]:.1%}"
            rows.append([name, f"{better} {curve.thresholds[at]:.4g}", f"{curve.share[at]:.1%}", band])
    show_table(["of", found.metric, "share", "95 % band"], rows)
    if found.shift is not None:
        typer.echo(f"left by the rules beside the others: {_shifted(found.shift)}")
    choices = found.whole.choices[:most]
    show_table(
        ["choice", "effect", "p", "option", "n", "difference of means", "better than the others"],
        (
            [
                *([each.choice, f"{each.effect:.3f}", f"{each.p:.2g}"] if not place else ["", "", ""]),
                "inactive" if option.option is None else option.option,
                option.shift.n,
                f"{option.shift.difference:+.4g} ({option.shift.low:+.4g} to {option.shift.high:+.4g})",
                f"{option.shift.better:.0%}",
            ]
            for each in choices
            for place, option in enumerate(each.options)
        ),
    )
    if found.chosen:
        typer.echo(f"{found.chosen} of {found.whole.n} were chosen by searches: this is not the space's distribution")
    typer.echo(f"{found.whole.n} of {found.measured} measured architectures are described")


def _shifted(shift: ShiftOut) -> str:
    ends = f"95 % {shift.low:+.4g} to {shift.high:+.4g}"
    return f"mean {shift.difference:+.4g} ({ends}), better in {shift.better:.0%} of pairs"


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
