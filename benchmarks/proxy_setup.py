"""What the benchmarks of proxies run on: published tables and images, networks, minibatches, the machine."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.cells import live
from search_spaces.nasbench201 import NasBench201
from search_spaces.space import Genes

Batch = tuple[Tensor, Tensor]

SHARED = Path(os.environ.get("FRONTIER_SHARED", Path(__file__).parents[2] / "shared"))
RESULTS = Path(__file__).parent / "results"

_MEAN = (0.49139968, 0.48215827, 0.44653124)
_STD = (0.24703233, 0.24348505, 0.26158768)
"""Of CIFAR-10's training images; NAS-Bench-Suite-Zero normalises by them."""
_MARGIN = 4
_UNDEFINED = -1e8
"""What NAS-Bench-Suite-Zero writes for NaN and infinity."""

PUBLISHED_COLUMNS = {
    "epe_nas": "epe_nas",
    "fisher": "fisher",
    "grad_norm": "grad_norm",
    "grasp": "grasp",
    "jacob_cov": "jacov",
    "l2_norm": "l2_norm",
    "naswot": "nwot",
    "plain": "plain",
    "snip": "snip",
    "synflow": "synflow",
    "zen": "zen",
}
"""Proxy → column of the published table."""


@dataclass(frozen=True, slots=True)
class Table:
    """NAS-Bench-201's 15,625 cells on CIFAR-10, one row each, in the order of the official index.

    Attributes:
        genes: (n, 6) rows of `NasBench201` under ``identity="row"``.
        connected: (n,) whether the cell's output depends on its input.
        whole: (n,) whether no operation of the cell is cut off (``all_ops_reachable``).
        accuracy: (n,) ``test_acc_200``, percent: 200 epochs on all 50,000 training images, mean over seeds.
        published: proxy → (n,), NaN where the table has no score or the sign of an undefined one.
    """

    genes: Genes
    connected: NDArray[np.bool_]
    whole: NDArray[np.bool_]
    accuracy: NDArray[np.float64]
    published: dict[str, NDArray[np.float64]]


def read_table(space: NasBench201) -> Table:
    """Reads ``nb201/`` of the shared data."""
    folder = SHARED / "data" / "nb201"
    cells, accuracies, scores = (
        pq.read_table(folder / f"{name}.parquet") for name in ("archs", "cifar10_acc", "cifar10_proxies")
    )
    assert cells["idx"].equals(accuracies["idx"])
    assert cells["idx"].equals(scores["idx"])
    genes = np.stack([cells[choice.name].to_numpy() for choice in space.choices], axis=1).astype(np.int8)
    published = {proxy: scores[column].to_numpy().astype(np.float64) for proxy, column in PUBLISHED_COLUMNS.items()}
    return Table(
        genes=genes,
        connected=np.asarray(live(genes).any(axis=1)),
        whole=cells["all_ops_reachable"].to_numpy(zero_copy_only=False),
        accuracy=accuracies["test_acc_200"].to_numpy(),
        published={proxy: np.where(column == _UNDEFINED, np.nan, column) for proxy, column in published.items()},
    )


@cache
def read_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """4,000 CIFAR-10 training images, (n, 3, 32, 32) normalised as published, and labels (n,)."""
    with np.load(SHARED / "data" / "images" / "cifar10_train_exact_4000.npz", allow_pickle=False) as file:
        x, y = file["x"], file["y"].astype(np.int64)
    if x.shape[-1] == 3:
        x = x.transpose(0, 3, 1, 2)
    mean, std = (np.array(numbers, dtype=np.float32).reshape(1, 3, 1, 1) for numbers in (_MEAN, _STD))
    return (x.astype(np.float32) / np.float32(255) - mean) / std, y


def draw_batch(
    images: NDArray[np.float32], labels: NDArray[np.int64], size: int, rng: np.random.Generator, device: torch.device
) -> Batch:
    """Different images, each shifted by up to 4 pixels over black margins and mirrored at random, as in training.

    The margin has the value of a black pixel after normalisation, as if it had been added before.
    """
    chosen = rng.choice(len(images), size, replace=False)
    side = images.shape[-1]
    black = -np.array(_MEAN, dtype=np.float32) / np.array(_STD, dtype=np.float32)
    wide = np.empty((size, 3, side + 2 * _MARGIN, side + 2 * _MARGIN), dtype=np.float32)
    wide[:] = black.reshape(1, 3, 1, 1)
    wide[:, :, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = images[chosen]
    shifts = rng.integers(0, 2 * _MARGIN + 1, size=(size, 2))
    mirrored = rng.random(size) < 0.5
    x = np.stack([each[:, i : i + side, j : j + side] for each, (i, j) in zip(wide, shifts, strict=True)])
    x[mirrored] = x[mirrored, :, :, ::-1]
    return torch.from_numpy(x).to(device), torch.from_numpy(labels[chosen]).to(device)


def network_of(space: NasBench201, row: Genes, rng: np.random.Generator, device: torch.device) -> nn.Module:
    """The network with torch's default initialisation, which the published scores were computed with."""
    network = space.build(row)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                layer.reset_parameters()
    return network.train().to(device)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "load_before": psutil.getloadavg()[0],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("frontier-nas", "numpy", "torch")},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
