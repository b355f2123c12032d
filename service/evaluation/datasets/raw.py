"""What a loader of images returns, and the checks that every loader's images must pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]
"""uint8 in 0..255 or finite float32."""

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RawImages:
    """Images and labels as they were published, before any split or normalisation.

    Attributes:
        images: (n, channels, height, width), uint8 in 0..255 or finite float32.
        labels: (n,), 0 to ``classes`` - 1, each of them present.
        classes: how many classes there are, at least 2.
        test: indices of the published test split, ascending; None where nobody published one.
    """

    images: Pixels
    labels: Labels
    classes: int
    test: Labels | None = field(default=None)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"images must be (n, c, h, w) uint8 or float32, got {self.images.shape} of {self.images.dtype}"
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype != np.int64:
            raise ValueError(
                f"labels must be ({len(self.images)},) int64, got {self.labels.shape} of {self.labels.dtype}"
            )
        if self.classes < 2:
            raise ValueError(f"needs images of at least 2 classes, has {self.classes}")


def pixels(array: NDArray[Any], source: Path | str) -> Pixels:
    """(n, h, w), (n, h, w, c) or (n, c, h, w) of any number type → (n, c, h, w), uint8 where that is exact.

    The axis of channels is the one of length 1 or 3, else the one of at most 4; a row of images where both ends
    qualify is refused, as is anything NaN or infinite. ``source`` names the file in messages.
    """
    if array.dtype == object or array.dtype.kind not in "buif":
        raise ValueError(f"{source}: x holds {array.dtype}, must be numbers: uint8 0..255 or floats")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4:
        array = _channels_first(array, source)
    else:
        raise ValueError(f"{source}: x has shape {array.shape}, must be (n, h, w), (n, h, w, c) or (n, c, h, w)")
    if 0 in array.shape:
        raise ValueError(f"{source}: x has shape {array.shape}: there are no pixels")
    if array.dtype.kind in "bui" and (array.dtype == np.uint8 or (array.min() >= 0 and array.max() <= 255)):
        return np.ascontiguousarray(array, dtype=np.uint8)
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(floats).all(axis=(1, 2, 3)))
    if len(bad):
        raise ValueError(f"{source}: image {int(bad[0])} has NaN or infinite pixels ({len(bad)} images do)")
    return floats


def _channels_first(array: NDArray[Any], source: Path | str) -> NDArray[Any]:
    for allowed in ((1, 3), (1, 2, 3, 4)):
        first, last = array.shape[1] in allowed, array.shape[3] in allowed
        if first and last:
            break
        if first:
            return array
        if last:
            return array.transpose(0, 3, 1, 2)
    raise ValueError(
        f"{source}: cannot tell the axis of channels in x of shape {array.shape}: exactly one of axes 1 and 3 must "
        "have length 1 to 4"
    )


def class_labels(array: NDArray[Any], count: int, source: Path | str) -> tuple[Labels, int]:
    """Labels of any whole numbers → ((n,) int64, classes); classes are numbered in ascending order of the labels."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{source}: y has shape {array.shape}, must be (n,): one class number per image")
    if array.dtype.kind not in "bui":
        raise ValueError(f"{source}: y holds {array.dtype}, must be whole numbers: one class per image")
    if len(array) != count:
        raise ValueError(f"{source}: {count} images but {len(array)} labels: there must be one per image")
    values, labels = np.unique(array, return_inverse=True)
    if len(values) < 2:
        raise ValueError(f"{source}: all labels are {values.tolist()}: there must be at least 2 classes")
    return labels.astype(np.int64), len(values)
