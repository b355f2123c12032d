"""A worker as a process: device, data sets, threads, signals."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import threadpoolctl
import torch

from search_spaces.plugins import names
from service.client import Client, Function
from service.client.names import process_name
from service.core.evaluators import TABLE
from service.evaluation.cache import ArtifactCache
from service.evaluation.datasets import Dataset, announce, load_dataset
from service.evaluation.devices import describe
from service.evaluation.handler import HANDLERS
from service.evaluation.toolbox import Artifacts, Toolbox
from service.settings import Settings
from service.wire.jobs import Device, JobKind, WorkerIn
from service.worker.loop import Worker

CACHE_BYTES = 8 * 2**30


def run_worker(
    settings: Settings,
    name: str | None = None,
    device: str = "cpu",
    kinds: Sequence[JobKind] | None = None,
    functions: Mapping[str, Function] | None = None,
) -> None:
    """What ``frontier worker`` does: sets up this process, announces, works until SIGTERM or SIGINT.

    With ``functions``, evaluators by name, it does nothing but call them, and has no data sets. Raises ValueError for a
    data set that cannot be read, a device that is not there or a function named as a plug-in, and what `Worker.run`
    raises.
    """
    taken = sorted({TABLE, *names("evaluators")} & set(functions or ()))
    if taken:
        raise ValueError(f"a function cannot be named {', '.join(taken)}: there is such an evaluator already")
    torch.set_num_threads(settings.threads)
    # NumPy's matrix products as well: sums of another order are other sums.
    threadpoolctl.threadpool_limits(settings.threads, user_api="blas")
    # It names every optional package that is absent.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this torch sees no GPU")
    described = describe(where, settings.threads)
    datasets = {} if functions else read_datasets(settings.datasets)
    wanted = [JobKind.EVALUATE] if functions else kinds
    with Client(settings.server_url, settings.bearer) as client:
        files = cached_artifacts(client, settings.cache_folder)
        toolbox = Toolbox(files, datasets, where, device_name=described.name, functions=functions)
        worker = Worker(client, toolbox, announcement(name, described, datasets, wanted, list(functions or ())))
        _drain_on_signals(worker)
        worker.run()


def read_datasets(specs: str) -> dict[str, Dataset]:
    """Digest → data set, of comma-separated specs. Raises ValueError for one that cannot be read, or a name twice."""
    found: dict[str, Dataset] = {}
    for spec in filter(None, map(str.strip, specs.split(","))):
        dataset = load_dataset(spec)
        if dataset.name in {other.name for other in found.values()}:
            raise ValueError(f"two data sets are named {dataset.name!r}: put name= before one, as in other={spec}")
        found[dataset.digest] = dataset
    return found


def cached_artifacts(client: Client, folder: Path) -> Artifacts:
    """Artifacts of the server, through a cache on this machine."""
    cache = ArtifactCache(folder, CACHE_BYTES, client.artifacts.download)

    def put(data: bytes) -> str:
        digest = client.artifacts.upload(data)
        cache.put(data)
        return digest

    return Artifacts(get=cache.get, put=put)


def announcement(
    name: str | None,
    device: Device,
    datasets: Mapping[str, Dataset],
    kinds: Sequence[JobKind] | None,
    evaluators: Sequence[str] = (),
) -> WorkerIn:
    """What the server is told: all evaluators that are installed unless some are given. Without a name, the worker is
    named after machine and process."""
    unknown = [kind for kind in kinds or () if kind not in HANDLERS]
    if unknown:
        raise ValueError(f"no handler for {', '.join(unknown)}: kinds are {', '.join(HANDLERS)}")
    return WorkerIn(
        name=name or process_name(),
        kinds=list(kinds or HANDLERS),
        device=device,
        datasets=[announce(dataset) for dataset in datasets.values()],
        evaluators=list(evaluators) or names("evaluators"),
    )


def _drain_on_signals(worker: Worker) -> None:
    seen = 0

    def drain(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        worker.drain(None if seen == 1 else 0.0)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, drain)
