"""``frontier export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.common import AsJson, Url, body, connect, show_json, wait
from service.cli.exchange import export_measurements
from service.wire.payloads import ExportResult
from service.wire.studies import ExportIn

SUFFIXES = {"onnx": ".onnx", "torch": ".pt"}


def export(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    key: Annotated[
        str | None, typer.Argument(help="Key of the architecture; the study's measurements if left out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for a network's files; file for measurements.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Networks: onnx or torch; repeat it, both by default. Measurements: ndjson by default, csv, parquet.",
        ),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Export a study's measurements, or an architecture's trained network, to files."""
    if key is None:
        export_measurements(study, out, formats or [], url)
        return
    folder = out or Path()
    with connect(url) as client:
        job = client.studies.export(study, key, body(ExportIn, formats=formats))
        result = ExportResult.model_validate(wait(client, job, f"exporting {key[:8]}").result)
        files = {
            kind: client.artifacts.download(digest, folder / f"{study}-{key[:8]}{SUFFIXES.get(kind, f'.{kind}')}")
            for kind, digest in result.files.items()
        }
    if as_json:
        show_json({"files": {kind: str(path) for kind, path in files.items()}, "max_abs_diff": result.max_abs_diff})
        return
    for kind, path in files.items():
        typer.echo(f"{path}  largest difference to the super-network {result.max_abs_diff.get(kind, float('nan')):.2g}")
