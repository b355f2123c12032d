"""``idx:DIR``: the four files of MNIST and its relatives, plain or gzipped (LeCun, Cortes & Burges, 1998)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from service.evaluation.datasets.raw import RawImages, class_labels, pixels

_UNSIGNED_BYTE = 0x08
_PARTS = {"train": ("train",), "test": ("t10k", "test")}


def load(path: str | None) -> RawImages:
    """Reads ``*train-images*idx3*``, ``*train-labels*idx1*`` and the same of ``t10k`` or ``test``, ``.gz`` or not.

    The t10k files are the test split; 10 % of the training images are for validation.
    """
    if path is None:
        raise ValueError("idx needs a folder: idx:DIR")
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    images, labels = [], []
    for part in _PARTS:
        file = _find(folder, part, "images", 3)
        x = pixels(_read(file, 3), file)
        label_file = _find(folder, part, "labels", 1)
        y = _read(label_file, 1)
        if len(y) != len(x):
            raise ValueError(f"{label_file}: {len(y)} labels for the {len(x)} images of {file.name}")
        images.append(x)
        labels.append(y)
    if images[0].shape[1:] != images[1].shape[1:]:
        raise ValueError(f"{folder}: training images are {images[0].shape[2:]}, test images {images[1].shape[2:]}")
    count = len(images[0]) + len(images[1])
    numbers, classes = class_labels(np.concatenate(labels), count, folder)
    return RawImages(np.concatenate(images), numbers, classes, test=np.arange(len(images[0]), count))


def _find(folder: Path, part: str, what: str, dimensions: int) -> Path:
    found = sorted(
        file
        for prefix in _PARTS[part]
        for file in folder.glob(f"*{prefix}-{what}*idx{dimensions}*")
        if file.is_file() and file.suffix in ("", ".gz", f".idx{dimensions}-ubyte")
    )
    plain = [file for file in found if file.suffix != ".gz"]
    # The same file packed and unpacked side by side is common.
    chosen = plain or found
    if len(chosen) != 1:
        wanted = f"{_PARTS[part][0]}-{what}-idx{dimensions}-ubyte[.gz]"
        raise ValueError(f"{folder}: must hold exactly one {wanted}, found {[file.name for file in chosen] or 'none'}")
    return chosen[0]


def _read(file: Path, dimensions: int) -> NDArray[np.uint8]:
    try:
        with cast(BinaryIO, gzip.open(file) if file.suffix == ".gz" else file.open("rb")) as stream:
            head = stream.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
                raise ValueError(f"{file}: is not an idx file of {dimensions} dimensions of unsigned bytes")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            size = math.prod(shape)
            # One byte more than promised: a longer file is refused without reading it whole.
            data = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    if len(data) != size:
        kept = "more" if len(data) > size else f"only {len(data)}"
        raise ValueError(f"{file}: its head promises {size} bytes of shape {shape}, there are {kept}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
