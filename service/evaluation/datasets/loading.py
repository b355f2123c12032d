"""From a worker's setting to a data set: ``[name=]kind[:path]``."""

from __future__ import annotations

import re

from search_spaces.plugins import UnknownPlugin, load
from service.evaluation.datasets.dataset import Dataset, make_dataset
from service.evaluation.datasets.raw import RawImages
from service.wire.spaces import DatasetOut

_SPEC = re.compile(r"(?:(?P<name>[a-z0-9][a-z0-9_.\-]{0,62})=)?(?P<kind>[A-Za-z0-9_\-]+)(?::(?P<path>.+))?", re.DOTALL)


def load_dataset(spec: str) -> Dataset:
    """Reads ``digits``, ``npz:FILE``, ``cifar10:DIR``, ``idx:DIR``, ``folder:DIR`` ..., each with ``name=`` before it.

    The kinds are the plug-ins of group ``frontier.datasets``; without a name the data set is named after its kind.

    Raises ValueError that names the file and says what would be right.
    """
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise ValueError(
            f"data set {spec!r} must be [name=]kind[:path], for example digits or faces=folder:/data/faces"
        )
    name, kind, path = match["name"] or match["kind"], match["kind"], match["path"]
    try:
        loader = load("datasets", kind)
    except UnknownPlugin as error:
        raise ValueError(f"data set {spec!r}: {error}") from error
    raw: RawImages = loader(path)
    try:
        return make_dataset(name, raw)
    except ValueError as error:
        raise ValueError(f"{path or kind}: {error}") from error


def announce(dataset: Dataset) -> DatasetOut:
    """What the worker tells the server of it."""
    return DatasetOut(
        name=dataset.name,
        digest=dataset.digest,
        shape=list(dataset.shape),
        classes=dataset.classes,
        counts=dataset.counts,
    )
