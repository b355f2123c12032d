"""What proxies are worth on NAS-Bench-201: against accuracy, and against the published scores of the same cells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as Printed

from benchmarks.proxy_scores import Scored
from benchmarks.proxy_setup import Table
from predictors.bootstrap import Interval
from predictors.proxies import catalogue
from predictors.proxies.aggregates import AZ_NAS, VOTE, Aggregate, az_nas, vote
from predictors.ranking import spearman
from predictors.standing import standings
from search_spaces.nasbench201 import NasBench201

LABEL = "test_acc_200"
LEVEL = 0.95

PUBLISHED_SPEARMAN = {
    "gradsign": ".765",
    "grad_norm": ".59",
    "grasp": ".51",
    "jacob_cov": ".73",
    "macs": ".73–.80",
    "naswot": ".76",
    "snip": ".60",
    "synflow": ".74",
    "zen": ".35",
    "zico": ".80",
}
"""Of papers, against test accuracy on CIFAR-10; their sets of rows differ."""

REPEATABILITY = {
    "epe_nas": 0.76,
    "fisher": 0.97,
    "grad_norm": 0.98,
    "jacob_cov": 0.94,
    "snip": 0.99,
    "synflow": 1.0,
}
"""Spearman between two published runs."""
TOLERANCE = 0.05

AGGREGATES: dict[str, tuple[Callable[[NDArray[np.float64]], Aggregate], tuple[str, ...]]] = {
    "az_nas": (az_nas, AZ_NAS),
    "vote": (vote, VOTE),
}
"""Scores that are made of others, and of which."""

_PLACE = re.compile(r"[\w.]*\d[\w.]*")


def correlate(names: Sequence[str], scored: Sequence[Scored], table: Table, seed: int) -> list[dict[str, Any]]:
    """One row for each proxy, and for aggregates whose parts are there: of connected cells that have a score."""
    rng = np.random.default_rng([seed, 1])
    rows = np.array([each.idx for each in scored])
    connected, accuracy = table.connected[rows], table.accuracy[rows]
    ours = {name: np.array([each.scores.get(name, np.nan) for each in scored]) for name in names}
    signs = {about.name: 1.0 if about.direction == "higher" else -1.0 for about in catalogue(names)}
    for name, (aggregate, columns) in AGGREGATES.items():
        if set(columns) <= ours.keys():
            ours[name] = np.full(len(rows), np.nan)
            # The pool that they rank in is that of the connected cells.
            ours[name][connected] = aggregate(np.stack([ours[each][connected] for each in columns], axis=1)).scores
            signs[name] = 1.0
    costs = NasBench201(identity="row").cost(table.genes[rows][connected])
    standing = standings(
        {name: signs[name] * values[connected] for name, values in ours.items()},
        accuracy[connected],
        {f"log {name}": np.log(costs[name]) for name in ("params", "macs")},
        rng,
        level=LEVEL,
    )
    result = []
    for name in ours:
        found = standing[name]
        result.append(
            {
                "proxy": name,
                "direction": "higher" if signs[name] > 0 else "lower",
                "cells": found.kendall.n,
                "spearman": _ends(found.spearman),
                "kendall": _ends(found.kendall),
                "partial_kendall": _ends(found.partial),
                "beside": {each.baseline: str(each.verdict) for each in found.beside},
                "published_spearman": PUBLISHED_SPEARMAN.get(name),
                "undefined_connected": _reasons(name, scored, connected),
                "undefined_disconnected": _reasons(name, scored, ~connected),
                "scored_disconnected": int(np.isfinite(ours[name][~connected]).sum()),
                "same_cells": _beside_published(name, signs[name], ours[name], rows, table, rng),
            }
        )
    return result


def _beside_published(
    name: str, sign: float, ours: NDArray[np.float64], rows: NDArray[np.int_], table: Table, rng: np.random.Generator
) -> dict[str, Any] | None:
    """On connected cells without dead operations that have both scores."""
    if name not in table.published:
        return None
    theirs, accuracy = table.published[name][rows], table.accuracy[rows]
    both = table.whole[rows] & table.connected[rows] & np.isfinite(ours) & np.isfinite(theirs)
    between = spearman(ours[both], theirs[both], rng, level=LEVEL)
    least = REPEATABILITY[name] - TOLERANCE if name in REPEATABILITY else None
    return {
        "cells": int(both.sum()),
        "spearman": _ends(spearman(sign * ours[both], accuracy[both], rng, level=LEVEL)),
        "spearman_published": _ends(spearman(sign * theirs[both], accuracy[both], rng, level=LEVEL)),
        "between": _ends(between),
        "least": least,
        "met": None if least is None else bool(between.value >= least),
    }


def _reasons(name: str, scored: Sequence[Scored], here: NDArray[np.bool_]) -> dict[str, int]:
    """Reason → cells; names of layers and numbers are left out of it."""
    counts: Counter[str] = Counter()
    for each, counted in zip(scored, here, strict=True):
        if counted and name in each.undefined:
            counts[_PLACE.sub("…", each.undefined[name])] += 1
    return dict(counts.most_common())


def _ends(found: Interval) -> dict[str, Any]:
    return {field: None if value != value else value for field, value in asdict(found).items() if field != "n"}


def show(result: dict[str, Any]) -> None:
    """Prints the result of ``benchmarks.proxies --correlation``."""
    console = Console(width=130)
    console.print(
        f"Label: {LABEL}, NAS-Bench-201, CIFAR-10. Rows: {result['sample']} cells drawn uniformly from all "
        f"15,625 with seed {result['seed']}; left out: {result['disconnected']} whose output does not depend on their "
        f"input. Intervals: {LEVEL:.0%}, bootstrap over cells."
    )
    table = Printed("proxy", box=None, header_style="bold")
    for column in ("cells", "Spearman", "published", "Kendall", "partial Kendall¹", "beside MACs"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        table.add_row(
            row["proxy"] + (" (lower)" if row["direction"] == "lower" else ""),
            str(row["cells"]),
            *(_words(row["spearman"]), row["published_spearman"] or "", _words(row["kendall"])),
            _words(row["partial_kendall"]),
            "" if row["proxy"] == "macs" else row["beside"]["log macs"].replace("_", " "),
        )
    console.print(table)
    console.print("¹ given log parameters and log MACs (of two that order all cells alike, one)")
    console.print("\nThe same cells' published scores: connected, without dead operations")
    table = Printed("proxy", box=None, header_style="bold")
    for column in ("cells", "ours, accuracy", "published, accuracy", "ours, published", "at least", ""):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        if same := row["same_cells"]:
            least = same["least"]
            table.add_row(
                row["proxy"],
                str(same["cells"]),
                *(_words(same[field]) for field in ("spearman", "spearman_published", "between")),
                "" if least is None else f"{least:.2f}",
                "" if least is None else ("met" if same["met"] else "not met"),
            )
    console.print(table)
    console.print("\nUndefined")
    for row in result["rows"]:
        for kind in ("connected", "disconnected"):
            for reason, count in row[f"undefined_{kind}"].items():
                console.print(f"  {row['proxy']}: {count} {kind} cells: {reason}", markup=False)
        if row["scored_disconnected"]:
            console.print(f"  {row['proxy']}: has a score of {row['scored_disconnected']} disconnected cells, left out")
    console.print(
        f"\n{result['scored_now']} cells scored in {result['seconds']:,.0f} s"
        + (f", {result['scored_now'] / result['seconds']:.3f} a second" if result["scored_now"] else "")
        + f"; all: {result['architectures_per_s']:.3f} architectures a second, all proxies of each"
    )


def _words(ends: dict[str, float | None]) -> str:
    value, low, high = (ends[field] for field in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
