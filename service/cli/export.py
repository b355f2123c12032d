"""``frontier export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.common import AsJson, Url, body, connect, show_json, wait
from service.wire.payloads import ExportResult
from service.wire.studies import ExportIn

SUFFIXES = {"onnx": ".onnx", "torch": ".pt"}


def export(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    key: Annotated[str, typer.Argument(help="Key of the architecture.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path(),
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="onnx or torch; repeat it. Both by default.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Export an architecture's trained network to files."""
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
