"""``frontier proxies``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from predictors.proxies.proxy import catalogue
from service.cli.common import AsJson, Url, body, show_json, show_table
from service.core.scoring import AGGREGATES, IMAGES, MINIBATCHES, scorable
from service.wire.studies import ScoreIn

app = typer.Typer(help="Zero-cost proxies: scores of untrained networks.", no_args_is_help=True)


@app.command("list")
def list_proxies(as_json: AsJson = False) -> None:
    """List the proxies: what each needs of a network and its data, whether better is higher or lower, and its paper."""
    described: list[dict[str, Any]] = [
        {
            "name": about.name,
            "title": about.title,
            "needs": sorted(about.needs),
            "direction": about.direction,
            "unit": about.unit,
            "formula": about.formula,
            "failure": about.failure,
            "paper": about.paper,
        }
        for about in catalogue()
    ]
    described += [
        {
            "name": name,
            "title": pooled.title,
            "needs": ["pool"],
            "direction": "higher",
            "unit": "score",
            "formula": f"of the ranks by {', '.join(pooled.columns)} among the architectures that are scored together",
            "failure": "Says nothing of one network; another pool gives another score.",
            "paper": pooled.paper,
        }
        for name, pooled in AGGREGATES.items()
        if name in scorable()
    ]
    described.sort(key=lambda each: str(each["name"]))
    if as_json:
        show_json(described)
        return
    columns = ["name", "direction", "needs", "paper"]
    show_table(
        ["proxy", "better", "needs", "paper"],
        ([", ".join(v) if isinstance(v := each[name], list) else v for name in columns] for each in described),
    )


@app.command("score")
def score(
    target: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|FILE.py:FUNCTION",
            help="A study, whose architectures the server's workers score; or your own network: a Python function "
            "without arguments that returns a torch.nn.Module, scored here, without a server.",
            show_default=False,
        ),
    ],
    proxy: Annotated[list[str] | None, typer.Option(help="Name of a proxy; repeat it.")] = None,
    proxies: Annotated[str | None, typer.Option(help="Names of proxies, comma-separated.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of all that is drawn: architectures, images, initial weights.")
    ] = 0,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Images in a minibatch: {IMAGES} for a study; for your own network all of x, unless given.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Study: score so many architectures, drawn from the space; 100 by default.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Study: score the architectures of a file instead: NDJSON, JSON, CSV or Parquet with rows of config, "
            "config.CHOICE, genes or notation.",
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(
            "--format",
            help="Study: the file is ndjson, json, csv or parquet; by the file's name if left out.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="Study: write a JSON object a line for each architecture, as they are scored; - for standard output.",
        ),
    ] = None,
    minibatches: Annotated[
        int | None,
        typer.Option(
            min=2,
            help=f"Study: minibatches for proxies that need several; {MINIBATCHES} by default.",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Study: initialisations of each network: scores are means, with 95 % intervals; 1 by default.",
            show_default=False,
        ),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Study: queue it and do not wait."),
    ] = False,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help="Own network: NPZ file with x, (n, ...) floating point, and y, (n,) integers: class labels.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Own network: NPZ file with the parameters by name, and buffers if you like; without it they are as "
            "FUNCTION leaves them.",
        ),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Score untrained networks by zero-cost proxies.

    frontier proxies score STUDY --proxies gradsign,synflow --sample 1000 --out scores.ndjson

    frontier proxies score FILE.py:FUNCTION --inputs BATCH.npz --proxies gradsign,synflow --json

    Scores of a study are measurements: what is scored already is not scored again, so the same command continues what
    was interrupted. Of your own network one JSON object is printed: proxy and score, or {"undefined": reason}.
    """
    wanted = _names(proxy, proxies)
    of_study = {
        "--sample": sample,
        "--file": file,
        "--format": format,
        "--out": output,
        "--minibatches": minibatches,
        "--repeats": repeats,
        "--detach": detach or None,
    }
    if ":" in target or target.endswith(".py"):
        _refuse(of_study, "is for the architectures of a study, not for a network of your own")
        from service.cli.network import score_network

        if inputs is None:
            raise typer.BadParameter("is missing: an NPZ file with x and y", param_hint="--inputs")
        show = score_network(target, inputs, weights, wanted, batch, seed)
        if as_json:
            show_json(show)
        else:
            show_table(["proxy", "score", "undefined"], _lines(show))
        return
    _refuse({"--inputs": inputs, "--weights": weights}, "is for a network of your own, FILE.py:FUNCTION")
    from service.cli.scoring import Source, score_study

    if file is not None and sample is not None:
        raise typer.BadParameter("give a file or a number to draw, not both", param_hint="--sample")
    if detach and output is not None:
        raise typer.BadParameter("is nothing to write to: nobody waits for the scores", param_hint="--out")
    asked = body(
        ScoreIn,
        proxies=wanted,
        seed=seed,
        batch=batch,
        minibatches=minibatches,
        repeats=repeats,
    )
    source = Source(sample or 100, seed) if file is None else Source.of_file(file, format)
    score_study(target, asked, source, output, detach=detach, url=url, as_json=as_json)


def _names(given: list[str] | None, listed: str | None) -> list[str]:
    wanted = [name.strip() for name in [*(given or []), *(listed.split(",") if listed else [])]]
    if not wanted:
        raise typer.BadParameter(f"is missing: one or more of {', '.join(scorable())}", param_hint="--proxies")
    for name in wanted:
        if name not in scorable():
            raise typer.BadParameter(
                f"no proxy named {name!r}, there are: {', '.join(scorable())}", param_hint="--proxies"
            )
    return list(dict.fromkeys(wanted))


def _refuse(given: dict[str, Any], why: str) -> None:
    for option, value in given.items():
        if value is not None:
            raise typer.BadParameter(why, param_hint=option)


def _lines(scores: dict[str, Any]) -> list[list[Any]]:
    return [
        [name, None, value["undefined"]] if isinstance(value, dict) else [name, value, None]
        for name, value in scores.items()
    ]
