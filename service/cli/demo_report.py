"""What the demo found, for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from service.wire.studies import FrontOut


@dataclass(slots=True)
class Report:
    """The results of one demo; ``seconds`` is the wall time from the start of the server."""

    study: str
    evaluations: int
    front: list[dict[str, Any]]
    scaling: list[dict[str, Any]]
    hypervolume: float | None
    hypervolume_random: float | None
    predictor: dict[str, Any]
    exported: str
    export: dict[str, float]
    files: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, allow_nan=False)


def front_rows(front: FrontOut) -> list[dict[str, Any]]:
    """The front as plain rows; accuracies are fractions."""
    return [
        {
            "key": point.key,
            "config": point.config,
            "accuracy": 1.0 - point.metrics["error"],
            "test_accuracy": 1.0 - point.test_metrics["error"] if "error" in point.test_metrics else None,
            "macs": int(point.metrics["macs"]),
            "params": int(point.metrics["params"]),
            "latency_ms": point.metrics.get("latency_ms"),
        }
        for point in front.points
    ]


def print_report(console: Console, report: Report) -> None:
    """The Pareto front, both hypervolumes, the predictor beside its baselines, and the export."""
    table = Table(
        title=f"Pareto front of {report.study} (accuracies; * is exported)",
        title_justify="left",
        box=None,
        header_style="bold",
    )
    for name in ("architecture", "validation", "test", "MACs", "parameters", "latency"):
        table.add_column(name, justify="left" if name == "architecture" else "right")
    for row in report.front:
        table.add_row(
            row["key"][:12] + ("*" if row["key"] == report.exported else ""),
            f"{row['accuracy']:.2%}",
            "-" if row["test_accuracy"] is None else f"{row['test_accuracy']:.2%}",
            f"{row['macs']:,}",
            f"{row['params']:,}",
            "-" if row["latency_ms"] is None else f"{row['latency_ms']:.3f} ms",
        )
    console.print()
    console.print(table)
    scaling = ", ".join(f"{s['metric']} from {s['bounds'][0]:.6g} to {s['bounds'][1]:.6g}" for s in report.scaling)
    say = partial(console.print, soft_wrap=True, highlight=False)
    say(f"\nHypervolume after {report.evaluations} evaluations (scaled: {scaling}; reference 1.1 each):")
    say(f"  guided {_number(report.hypervolume)}   random {_number(report.hypervolume_random)}")
    say("  One run proves nothing: `python -m benchmarks.demo` repeats both over seeds.")
    audit = report.predictor
    say(
        f"\nPredictor on {audit['n']} architectures of the random search, which it never saw: Kendall tau "
        f"{_number(audit['kendall_tau'])} (95 % interval {_number(audit['ci_low'])} to {_number(audit['ci_high'])})"
    )
    say(f"  beside MACs {_number(audit['macs_tau'])} and parameters {_number(audit['params_tau'])}")
    say(
        f"\nExported {report.exported[:12]}; largest difference from the sub-network's outputs: "
        f"ONNX {report.export['onnx_max_abs_diff']:.2e}, torch {report.export['torch_max_abs_diff']:.2e}"
    )
    for kind, digest in report.files.items():
        say(f"  {kind}: artifact {digest}")
    say(f"\nTook {report.seconds:.0f} s.")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
