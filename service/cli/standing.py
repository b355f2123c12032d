"""``frontier proxies compare``"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.common import AsJson, Url, connect, show_json, show_table
from service.wire.standing import ProxyStandings, RankOut


def compare(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    metric: Annotated[str, typer.Option(help="Measured metric that scores are compared with.")],
    proxy: Annotated[
        list[str] | None, typer.Option(help="Compare this score alone; repeat it. All that were scored by default.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="With what searches chose for its value, among which correlations are lower.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what zero-cost proxies are worth: how their scores rank what was measured.

    Correlations are positive where good scores mean good architectures, with 95 % bootstrap intervals; the best are the
    best tenth. Each proxy stands beside MACs and parameters of the same architectures.
    """
    with connect(url) as client:
        found = client.studies.proxies(study, metric, rows="all" if every else "drawn", proxies=proxy)
    if as_json:
        show_json(found)
        return
    show_standings(found)


def show_standings(found: ProxyStandings) -> None:
    """Standings as two tables: how scores rank, and how that is beside counting."""
    # Those without a tau come last.
    taus = [(each.kendall.value is None, -(each.kendall.value or 0), each) for each in (*found.proxies, *found.counted)]
    every = [each for _, _, each in sorted(taus, key=lambda known: known[:2])]
    show_table(
        ["score", "n", "Kendall", "Spearman", "best: Kendall", "best: Spearman", "seconds"],
        (
            [
                each.name,
                each.kendall.n,
                *(_rank(rank) for rank in (each.kendall, each.spearman, each.best_kendall, each.best_spearman)),
                f"{each.seconds:.3g}" if each.seconds is not None else None,
            ]
            for each in every
        ),
    )
    typer.echo()
    baselines = [each.name for each in found.counted]
    show_table(
        ["Kendall of", *(f"minus {name}" for name in baselines), "beyond counting", "verdict"],
        (
            [
                each.name,
                *(_rank(next((b.difference for b in each.beside if b.baseline == name), None)) for name in baselines),
                _rank(each.partial),
                each.words + (f"; undefined for {each.undefined}" if each.undefined else ""),
            ]
            for each in found.proxies
        ),
    )
    typer.echo("95 % intervals; best: within the best tenth; beyond counting: partial tau, MACs and parameters fixed")
    if found.caution:
        typer.echo(found.caution)
    typer.echo(f"{found.n} of {found.scored} scored architectures with {found.metric} are compared")


def _rank(rank: RankOut | None) -> str | None:
    if rank is None or rank.value is None:
        return None
    # Adding 0 makes the negative zero that rounding leaves a plain one.
    value, *ends = (f"{round(each, 2) + 0.0:.2f}" for each in (rank.value, rank.low, rank.high) if each is not None)
    return f"{value}\n{'..'.join(ends)}".strip()
