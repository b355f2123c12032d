"""``folder:DIR``: a folder of class folders of images, read with Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.evaluation.datasets.raw import RawImages

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
DEFAULT_SIDE = 32
LARGEST_SIDE = 512


def load(path: str | None) -> RawImages:
    """Reads ``DIR/CLASS/IMAGE``, or ``DIR/train/CLASS/IMAGE`` and ``DIR/test/CLASS/IMAGE`` with that test split.

    Every image becomes a square of one size: the largest square in its middle, scaled (bilinear) to 32 pixels or to
    N with ``folder:DIR?size=N``. All are grey (one channel) if every one of them is, else RGB; transparency is
    dropped. Classes are the folders' names in alphabetical order; hidden files and other types are passed over.
    JPEG decoders differ slightly between versions of Pillow: the same folder can get another digest there.
    """
    if path is None:
        raise ValueError("folder needs a folder: folder:DIR")
    root, side = _parse(path)
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder")
    published = (root / "train").is_dir() and (root / "test").is_dir()
    parts = [root / "train", root / "test"] if published else [root]
    classes = _folders(parts[0])
    names = [folder.name for folder in classes]
    if len(names) < 2:
        raise ValueError(f"{parts[0]}: must hold a folder of images per class, at least 2; found {names or 'none'}")
    files: list[Path] = []
    labels: list[int] = []
    first_test = 0
    for part in parts:
        first_test = len(files)
        strange = [folder.name for folder in _folders(part) if folder.name not in names]
        if strange:
            raise ValueError(f"{part}: has classes {strange} that {parts[0]} lacks")
        for label, name in enumerate(names):
            found = _images(part / name)
            if not found and part is parts[0]:
                raise ValueError(f"{part / name}: holds no images ({', '.join(sorted(SUFFIXES))})")
            files += found
            labels += [label] * len(found)
    images = _stack([_read(file, side) for file in files])
    test = np.arange(first_test, len(files)) if published else None
    return RawImages(images, np.array(labels, dtype=np.int64), len(names), test=test)


def _parse(path: str) -> tuple[Path, int]:
    folder, mark, query = path.rpartition("?")
    if not mark:
        return Path(path), DEFAULT_SIDE
    key, _, value = query.partition("=")
    if key != "size" or not value.isdecimal() or not 4 <= int(value) <= LARGEST_SIDE:
        raise ValueError(f"folder:{path}: after '?' comes size=N with N from 4 to {LARGEST_SIDE}, got {query!r}")
    return Path(folder), int(value)


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and not file.name.startswith(".") and file.suffix.lower() in SUFFIXES
    )


def _read(file: Path, side: int) -> NDArray[np.uint8]:
    """(1 or 3, side, side)."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            if opened.mode in ("F", "I") or opened.mode.startswith("I;"):
                raise ValueError(
                    f"pixels of more than 8 bits ({opened.mode}) are not read; convert it, or use npz:FILE"
                )
            mode = "L" if opened.mode in ("1", "L", "LA") else "RGB"
            square = _square(opened.convert(mode), side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: cannot be read as an image: {error}") from error
    array = np.asarray(square, dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _square(image: Image, side: int) -> Image:
    from PIL.Image import Resampling

    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    box = (left, top, left + edge, top + edge)
    if (width, height) == (side, side):
        return image
    return image.resize((side, side), resample=Resampling.BILINEAR, box=box)


def _stack(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    channels = max(image.shape[0] for image in images)
    return np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in images])
