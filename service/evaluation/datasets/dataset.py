"""A data set as workers use it: splits that never change, normalised images, a digest of it all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.datasets.raw import Labels, Pixels, RawImages

Images = NDArray[np.float32]

SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = 0.2
TEST_SHARE = 0.2
PUBLISHED_VALIDATION_SHARE = 0.1
"""Of the published training images, where the test split is published: 45,000 / 5,000 / 10,000 for CIFAR-10."""


@dataclass(frozen=True, slots=True)
class Split:
    """n images of one split. Pixels stay as they were stored and are normalised when asked for.

    Attributes:
        pixels: (n, c, h, w) uint8 or float32, as published.
        labels: (n,) int64 classes.
        mean, std: (c,) float32 of the train split's pixels, in units of ``pixels``.
    """

    pixels: Pixels
    labels: Labels
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Labels | slice = slice(None)) -> Images:
        """(k, c, h, w) float32: per channel (pixel - mean) / std of the train split."""
        chosen = self.pixels[rows].astype(np.float32)
        normalised: Images = (chosen - self.mean[:, None, None]) / self.std[:, None, None]
        return normalised


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images of ``classes`` classes in three splits.

    Attributes:
        name: the worker's name for it.
        digest: SHA-256 over pixels, labels and splits, hex: equal on all machines for equal content.
        shape: (channels, height, width) of one image.
        classes: how many there are.
        splits: ``train``, ``validation`` (what a search sees) and ``test`` (for the front only).
    """

    name: str
    digest: str
    shape: tuple[int, int, int]
    classes: int
    splits: Mapping[str, Split]

    @property
    def counts(self) -> dict[str, int]:
        """Images per split."""
        return {name: len(split) for name, split in self.splits.items()}


def make_dataset(name: str, raw: RawImages) -> Dataset:
    """Splits and normalises. Raises ValueError when a class has too few images for every split.

    The splits need no seed and do not depend on the order of the images: within each class, images are ranked by a
    hash of their pixels, and the first 20 % are for validation, the next 20 % for test, the rest for training. Equal
    images are neighbours in that order, so they hardly ever end up in different splits. Where a test split was
    published it is the test split, and 10 % of the other images of each class are for validation.
    """
    indices = _split(raw)
    train = raw.images[indices["train"]]
    mean, std = _moments(train)
    splits = {
        split: Split(train if split == "train" else raw.images[rows], raw.labels[rows], mean, std)
        for split, rows in indices.items()
    }
    channels, height, width = raw.images.shape[1:]
    return Dataset(name, _digest(raw, indices), (channels, height, width), raw.classes, splits)


def _split(raw: RawImages) -> dict[str, Labels]:
    published = np.zeros(len(raw.labels), dtype=bool)
    if raw.test is not None:
        published[raw.test] = True
    parts: dict[str, list[Labels]] = {"train": [], "validation": [], "test": []}
    for label in range(raw.classes):
        rows = np.flatnonzero((raw.labels == label) & ~published)
        least = 3 if raw.test is None else 2
        if len(rows) < least:
            raise ValueError(f"class {label} has {len(rows)} images to split, needs at least {least}")
        rows = rows[np.argsort([_hash(raw.images[row]) for row in rows], kind="stable")]
        share = VALIDATION_SHARE if raw.test is None else PUBLISHED_VALIDATION_SHARE
        validation = max(1, round(share * len(rows)))
        test = max(1, round(TEST_SHARE * len(rows))) if raw.test is None else 0
        parts["validation"].append(rows[:validation])
        parts["test"].append(rows[validation : validation + test])
        parts["train"].append(rows[validation + test :])
    indices = {name: np.sort(np.concatenate(rows)) for name, rows in parts.items()}
    if raw.test is not None:
        indices["test"] = np.flatnonzero(published)
        if not len(indices["test"]):
            raise ValueError("the published test split is empty")
    return indices


def _hash(image: Pixels) -> bytes:
    return hashlib.blake2b(_bytes(image), digest_size=16).digest()


def _moments(train: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation per channel; 1 where a channel is constant. Exact sums for uint8."""
    channels = np.moveaxis(train, 1, 0).reshape(train.shape[1], -1)
    means, stds = [], []
    for channel in channels:
        if channel.dtype == np.uint8:
            counts = np.bincount(channel, minlength=256).astype(np.float64)
            values = np.arange(256, dtype=np.float64)
            mean = float(counts @ values / counts.sum())
            std = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
        else:
            mean, std = float(channel.mean(dtype=np.float64)), float(channel.std(dtype=np.float64))
        means.append(mean)
        stds.append(std if std > 0 else 1.0)
    return np.array(means, dtype=np.float32), np.array(stds, dtype=np.float32)


def _digest(raw: RawImages, indices: Mapping[str, Labels]) -> str:
    head = {"version": 1, "shape": raw.images.shape, "dtype": raw.images.dtype.name, "classes": raw.classes}
    sha = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    sha.update(_bytes(raw.images))
    sha.update(_bytes(raw.labels))
    for split in SPLITS:
        sha.update(split.encode())
        sha.update(_bytes(indices[split]))
    return sha.hexdigest()


def _bytes(array: Pixels | Labels) -> memoryview:
    """Little-endian, C order, whatever the machine."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data.cast("B")
