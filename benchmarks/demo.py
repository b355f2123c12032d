"""Guided against random search on the demo's trained super-network, over seeds.

    python -m benchmarks.demo [--seeds 10] [--evaluations 150] [--quick]

Every seed is a study of its own on one trained super-network: both searches, the same number of evaluations, their
hypervolumes and the difference. Reported: the mean paired difference with its 95 % interval (Student's t), and the
ranking of the last predictor on the random search's architectures. Written to benchmarks/results/demo.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from service.cli import demo
from service.cli.demo_server import running_server
from service.client import Client

RESULTS = Path(__file__).parent / "results" / "demo.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="number of studies")
    parser.add_argument("--evaluations", type=int, default=150, help="evaluations of each search")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--quick", action="store_true", help="2 seeds of 40 evaluations; writes no file")
    arguments = parser.parse_args()
    seeds, evaluations = (2, 40) if arguments.quick else (arguments.seeds, arguments.evaluations)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), arguments.dataset) as server,
        Client(server.url) as client,
    ):
        rows = [_seed(client, arguments.dataset, evaluations, seed) for seed in range(seeds)]
    result = {"protocol": __doc__, "evaluations": evaluations, "machine": _machine(), "rows": rows, **_summary(rows)}
    _show(rows, result)
    if not arguments.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def _seed(client: Client, dataset: str, evaluations: int, seed: int) -> dict[str, Any]:
    began = time.monotonic()
    data = demo.announced(client, dataset, None)
    supernet, study = demo.prepare(client, data, evaluations, seed, supernet_seed=0)
    demo.train(client, supernet)
    guided, uniform = demo.search_both(client, study.name, evaluations)
    audit = demo.audit_on(client, study.name, guided, uniform)
    return {
        "seed": seed,
        "guided": guided.hypervolume,
        "random": uniform.hypervolume,
        "difference": (guided.hypervolume or 0.0) - (uniform.hypervolume or 0.0),
        **{name: getattr(audit, name) for name in ("kendall_tau", "macs_tau", "params_tau", "n")},
        "seconds": time.monotonic() - began,
    }


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    differences = [row["difference"] for row in rows]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / len(rows) ** 0.5
    half = float(stats.t.ppf(0.975, len(rows) - 1)) * error
    return {
        "difference_mean": mean,
        "difference_low": mean - half,
        "difference_high": mean + half,
        "guided_better": sum(difference > 0 for difference in differences),
        "kendall_tau_mean": statistics.fmean(row["kendall_tau"] for row in rows),
        "macs_tau_mean": statistics.fmean(row["macs_tau"] for row in rows),
        "params_tau_mean": statistics.fmean(row["params_tau"] for row in rows),
    }


def _machine() -> dict[str, str]:
    return {"platform": platform.platform(), "python": platform.python_version(), "torch": torch.__version__}


def _show(rows: list[dict[str, Any]], result: dict[str, Any]) -> None:
    console = Console()
    columns = ("seed", "guided", "random", "difference", "kendall_tau", "macs_tau", "params_tau", "seconds")
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for name in columns))
    console.print(table)
    console.print(
        f"hypervolume, guided - random: {result['difference_mean']:+.4f} "
        f"(95 % interval {result['difference_low']:+.4f} to {result['difference_high']:+.4f}), "
        f"guided better in {result['guided_better']} of {len(rows)}; tau {result['kendall_tau_mean']:.3f} "
        f"beside MACs {result['macs_tau_mean']:.3f} and parameters {result['params_tau_mean']:.3f}"
    )


if __name__ == "__main__":
    main()
