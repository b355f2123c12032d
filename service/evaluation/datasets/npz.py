"""``npz:FILE``: a NumPy archive with images ``x`` and labels ``y``."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.evaluation.datasets.raw import RawImages, class_labels, pixels


def load(path: str | None) -> RawImages:
    """Reads ``x`` (n, h, w), (n, h, w, c) or (n, c, h, w) and ``y`` (n,) whole numbers; split 60 / 20 / 20 %.

    Object arrays are refused: reading them would run code of the file's author.
    """
    if path is None:
        raise ValueError("npz needs a file: npz:FILE")
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{file}: is no .npz archive; numpy.savez({file.name!r}, x=images, y=labels) writes one")
        with np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                raise ValueError(f"{file}: has no {' and no '.join(missing)}; it holds {sorted(archive.files)}")
            x, y = _read(archive, "x", file), _read(archive, "y", file)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file}: is not a readable .npz archive: {error}") from error
    images = pixels(x, file)
    labels, classes = class_labels(y, len(images), file)
    return RawImages(images, labels, classes)


def _read(archive: Any, name: str, file: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = archive[name]
    except ValueError as error:
        raise ValueError(f"{file}: {name} cannot be read ({error}); it must be a plain array of numbers") from error
    return array
