"""Scores of NAS-Bench-201's cells under the published protocol, kept line by line so that a run can go on later."""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import predictors.proxies
from benchmarks.proxy_setup import Table, draw_batch, network_of, read_images
from predictors.proxies import Undefined, measure
from search_spaces.nasbench201 import NasBench201
from search_spaces.networks import initialise, nasbench201

BATCH = 64
MINIBATCHES = 2
"""The first is the one that proxies of a single minibatch take."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One cell: scores, and the reasons of those that there are none of."""

    idx: int
    seed: int
    version: str
    device: str
    seconds: float
    scores: dict[str, float]
    undefined: dict[str, str]


def chosen(count: int, seed: int, table: Table) -> list[int]:
    """Rows of the table, uniformly, without replacement; of a larger count the first are those of a smaller one."""
    order = np.random.default_rng(seed).permutation(len(table.genes))
    return [int(row) for row in order[:count]]


def score(
    names: Sequence[str], rows: Sequence[int], seed: int, table: Table, device: torch.device, kept: Path
) -> tuple[list[Scored], int, float]:
    """All rows, from ``kept`` where it has them; how many were scored now, and in how many seconds.

    What is scored is appended to ``kept``. Another seed, device or version of the code is scored anew.
    """
    space = NasBench201(identity="row")
    now, images = version(), read_images()
    found = {
        each.idx: each
        for each in read(kept)
        if (each.seed, each.version, each.device) == (seed, now, device.type)
        and set(names) <= each.scores.keys() | each.undefined.keys()
    }
    missing = [row for row in rows if row not in found]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    began = time.perf_counter()
    with _appended(kept) as file, Progress(*columns) as progress:
        bar = progress.add_task("cells", total=len(rows), completed=len(rows) - len(missing))
        for row in missing:
            started = time.perf_counter()
            # Another initialisation and other images for each cell, as published.
            rng = np.random.default_rng([seed, row])
            network = network_of(space, table.genes[row], rng, device)
            batches = [draw_batch(*images, BATCH, rng, device) for _ in range(MINIBATCHES)]
            measured = measure(network, batches, names, rng)
            seconds = time.perf_counter() - started
            undefined = {name: value.reason for name, value in measured.items() if isinstance(value, Undefined)}
            scores = {name: value for name, value in measured.items() if not isinstance(value, Undefined)}
            found[row] = Scored(row, seed, now, device.type, seconds, scores, undefined)
            file.write(json.dumps(asdict(found[row])) + "\n")
            file.flush()
            progress.advance(bar)
    return [found[row] for row in rows], len(missing), time.perf_counter() - began


def read(kept: Path) -> Iterator[Scored]:
    """What runs have kept; a line that was cut off when one was stopped is left out."""
    if not kept.exists():
        return
    with kept.open() as file:
        for line in file:
            if line.endswith("\n"):
                yield Scored(**json.loads(line))


def _appended(kept: Path) -> TextIO:
    """The file, open at the end of its last whole line."""
    kept.parent.mkdir(exist_ok=True)
    file = kept.open("a")
    file.truncate(kept.read_bytes().rfind(b"\n") + 1)
    return file


def version() -> str:
    """Tells apart what may give other scores: the code of proxies and networks without words about it, and torch."""
    digest = hashlib.blake2b(torch.__version__.encode(), digest_size=6)
    proxies = Path(predictors.proxies.__file__).parent
    for file in (*sorted(proxies.glob("*.py")), Path(initialise.__file__), Path(nasbench201.__file__)):
        digest.update(file.name.encode() + code(file.read_text()).encode())
    return digest.hexdigest()


def code(source: str) -> str:
    """What is left of Python without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                each for each in node.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ]
    return ast.dump(tree)
