"""Search spaces: batches as arrays, beside a loop over architectures that does the same work.

    python -m benchmarks.spaces [--quick]

One process, one thread. Of each space at its defaults:

- sample + canonical + keys: different architectures drawn, their canonical rows, their keys. The loop draws choice by
  choice, and keeps what has a new key. (NAS-Bench-201 has 5,260 architectures: four fifths of them are drawn at once.)
- one-hot, structure (operations, paths, layers on paths, of graphs that are made on the way) and cost (parameters
  and MACs), of architectures drawn before the clock starts. Where a space has fewer, they come several times.

The loop works on dicts and lists (`benchmarks.space_loops`). On some hundred architectures both must give the same
features and costs, and tell the same architectures apart, before anything is timed. A figure is the median of the
repeats, in architectures per second of the wall clock; ``cpu_per_s`` is the best of processor time. Seeds are fixed.
Written to benchmarks/results/spaces.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import space_loops as loops
from search_spaces.encoding import one_hot
from search_spaces.graphs import labels_of
from search_spaces.plugins import load
from search_spaces.space import Genes, SearchSpace
from search_spaces.structure import structure

RESULTS = Path(__file__).parent / "results" / "spaces.json"

SPACES: dict[str, loops.Loop] = {
    "nasbench201": loops.NasBench201(),
    "mobilenetv3": loops.MobileNetV3(),
    "darts": loops.Darts(),
}
"""Plug-in → the loop that does the same."""

TARGETS = {"sample + canonical + keys": 200_000, "one-hot": 2_000_000, "structure": 200_000, "cost": 1_000_000}
"""Operation → architectures per second."""


@dataclass(frozen=True, slots=True)
class Sizes:
    rows: int
    loop_rows: int
    repeats: int
    compared: int


FULL = Sizes(rows=200_000, loop_rows=4_000, repeats=7, compared=500)
QUICK = Sizes(rows=20_000, loop_rows=400, repeats=3, compared=100)


@dataclass(frozen=True, slots=True)
class Rate:
    per_s: float
    """Median over the wall clock."""
    lowest_per_s: float
    cpu_per_s: float
    """Best over processor time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes; writes no file")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else FULL
    machine = _machine()
    rows = [row for plugin, loop in SPACES.items() for row in _measure(plugin, loop, sizes)]
    _show(rows)
    if not arguments.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        result = {"protocol": __doc__, "sizes": asdict(sizes), "machine": machine, "rows": rows}
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def _measure(plugin: str, loop: loops.Loop, sizes: Sizes) -> list[dict[str, Any]]:
    space: SearchSpace = load("spaces", plugin)()
    rng, draws = np.random.default_rng(0), random.Random(0)  # noqa: S311 — nothing is kept secret
    # Of a small space most architectures are drawn at once; to the loop, which would meet most of them again, it is
    # left to draw few.
    everything = space.cardinality or sizes.rows
    at_once, one_by_one = min(sizes.rows, everything * 4 // 5), min(sizes.loop_rows, everything // 10)
    found = space.sample(at_once, rng)
    genes = found[np.arange(sizes.rows) % len(found)]
    configs = space.to_configs(genes[: sizes.loop_rows])
    labels = labels_of(space)
    layers = loops.layers(labels)
    compare(space, loop, space.sample(sizes.compared, rng), draws)

    def identify() -> list[str]:
        return space.keys(space.canonical(space.sample(at_once, rng)))

    assert len(set(identify())) == at_once
    assert len(loops.sample(loop, one_by_one, draws)) == one_by_one
    ours: dict[str, tuple[Callable[[], object], int]] = {
        "sample + canonical + keys": (identify, at_once),
        "one-hot": (partial(one_hot, space, genes), len(genes)),
        "structure": (partial(structure, space, genes), len(genes)),
        "cost": (partial(space.cost, genes), len(genes)),
    }
    theirs: dict[str, tuple[Callable[[], object], int]] = {
        "sample + canonical + keys": (partial(loops.sample, loop, one_by_one, draws), one_by_one),
        "one-hot": (lambda: np.array([loops.one_hot(each, space.choices) for each in configs]), len(configs)),
        "structure": (
            lambda: np.array([loops.structure(loop.graph(each), labels, layers) for each in configs]),
            len(configs),
        ),
        "cost": (lambda: [loop.cost(each) for each in configs], len(configs)),
    }
    rows = []
    for operation, target in TARGETS.items():
        batch, single = (_rate(*side[operation], sizes.repeats) for side in (ours, theirs))
        rows.append(
            {
                "space": plugin,
                "operation": operation,
                **asdict(batch),
                "loop_per_s": single.per_s,
                "ratio": batch.per_s / single.per_s,
                "target_per_s": target,
            }
        )
    return rows


def compare(space: SearchSpace, loop: loops.Loop, genes: Genes, rng: random.Random) -> None:
    """Both sides do the same work, on architectures of the space and on rows of any kind."""
    drawn = space.from_configs([_shown(space, loop.draw(rng)) for _ in range(len(genes))])
    rows = np.concatenate([genes, drawn, space.mutate(drawn, np.random.default_rng(1))])
    configs, labels = space.to_configs(rows), labels_of(space)
    pairs = list(zip(space.keys(rows), (loops.key(loop.canonical(each)) for each in configs), strict=True))
    assert len(set(pairs)) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs})
    np.testing.assert_array_equal(one_hot(space, rows), [loops.one_hot(each, space.choices) for each in configs])
    layers = loops.layers(labels)
    described = [loops.structure(loop.graph(each), labels, layers) for each in configs]
    np.testing.assert_allclose(structure(space, rows), described, rtol=1e-6)
    costs = space.cost(rows)
    assert [loop.cost(each) for each in configs] == list(zip(costs["params"], costs["macs"], strict=True))


def _shown(space: SearchSpace, config: loops.Config) -> loops.Config:
    """A config of the space: the loop draws choices that others cut off, too."""
    return {choice.name: config[choice.name] for choice in space.choices}


def _rate(work: Callable[[], object], count: int, repeats: int) -> Rate:
    work()
    wall, cpu = [], []
    for _ in range(repeats):
        began, spent = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    return Rate(count / statistics.median(wall), count / max(wall), count / min(cpu))


def _machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cores": psutil.cpu_count(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "load_before": psutil.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("frontier-nas", "numpy")},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("space", "operation", box=None, header_style="bold")
    for column in ("thousand/s", "in CPU time", "loop", "ratio", "target", ""):
        table.add_column(column, justify="right")
    for row in rows:
        rates = (f"{row[name] / 1000:,.1f}" for name in ("per_s", "cpu_per_s", "loop_per_s"))
        met = "met" if row["per_s"] >= row["target_per_s"] else "not met"
        target = f"{row['target_per_s'] // 1000:,}"
        table.add_row(row["space"], row["operation"], *rates, f"{row['ratio']:,.0f}", target, met)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
