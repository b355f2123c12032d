"""``cifar10:DIR``: CIFAR-10 in its published Python format (Krizhevsky, 2009).

The files are pickles, and reading a pickle can run anything its author wants. Here one is read by an unpickler that
knows nothing but the few names those files use, and gives each of them an inert meaning: no NumPy object is ever
built from the file, only bytes are taken from it.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.evaluation.datasets.raw import RawImages

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_SIDE = 32
_ROW = 3 * _SIDE * _SIDE


def load(path: str | None) -> RawImages:
    """Reads ``data_batch_1`` to ``_5`` and ``test_batch`` from the folder or its ``cifar-10-batches-py``.

    (60000, 3, 32, 32) uint8, 10 classes. The published test batch is the test split: 45,000 / 5,000 / 10,000.
    """
    if path is None:
        raise ValueError("cifar10 needs a folder: cifar10:DIR")
    folder = Path(path)
    if (folder / "cifar-10-batches-py").is_dir():
        folder = folder / "cifar-10-batches-py"
    missing = [name for name in (*_TRAIN, _TEST) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: has no {', '.join(missing)}; unpack cifar-10-python.tar.gz there")
    batches = [read_batch(folder / name) for name in (*_TRAIN, _TEST)]
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return RawImages(images, labels, 10, test=np.arange(len(images) - len(batches[-1][1]), len(images)))


def read_batch(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """((n, 3, 32, 32) uint8, (n,) int64 in 0..9). Raises ValueError for a file that is anything but a batch."""
    try:
        with file.open("rb") as stream:
            batch = _Reader(stream).load()
            if isinstance(batch, dict):
                batch = {_text(key): _plain(value) for key, value in batch.items()}
    except _Refused as error:
        raise ValueError(f"{file}: refused: {error}") from error
    except Exception as error:
        # A broken pickle can raise nearly anything.
        raise ValueError(f"{file}: is not a CIFAR-10 batch: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{file}: must hold a dictionary with data and labels, holds a {type(batch).__name__}")
    if "data" not in batch or "labels" not in batch:
        raise ValueError(f"{file}: must have data and labels, has {sorted(map(str, batch))}")
    pixels, labels = batch["data"], batch["labels"]
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _ROW:
        raise ValueError(f"{file}: data must be an array of bytes (n, {_ROW})")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise ValueError(f"{file}: labels must be a list of whole numbers from 0 to 9")
    if len(labels) != len(pixels):
        raise ValueError(f"{file}: {len(pixels)} images but {len(labels)} labels")
    return pixels.reshape(-1, 3, _SIDE, _SIDE), np.array(labels, dtype=np.int64)


class _Refused(ValueError):
    """The file asks for something that a batch of images has no use for."""


class _Dtype:
    """Stands for ``numpy.dtype``: remembers its code."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment say nothing about single bytes."""


class _Array:
    """Stands for ``numpy.ndarray``: keeps shape, type and bytes, and checks them before it becomes an array."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self) -> NDArray[np.uint8]:
        """The array of unsigned bytes. Raises `_Refused` for anything else."""
        match self.state:
            case (_, tuple() as shape, _Dtype() as dtype, bool() | int() as fortran, bytes() as data):
                pass
            case _:
                raise _Refused("an array without shape, type and bytes")
        if dtype.code not in ("u1", "|u1", "uint8"):
            raise _Refused(f"an array of {dtype.code!r}, must be unsigned bytes")
        if not all(type(side) is int and side >= 0 for side in shape):
            raise _Refused(f"an array of shape {shape}")
        size = 1
        for side in shape:
            size *= side
        if size != len(data):
            raise _Refused(f"an array of shape {shape} with {len(data)} bytes")
        return np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Python 3 writes bytes into old pickle protocols as text that is to be encoded as latin-1."""
    if not isinstance(text, str) or codecs.lookup(str(encoding)).name != "iso8859-1":
        raise _Refused("text in another encoding than latin-1")
    return text.encode("latin1")


def _text(key: object) -> object:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _plain(value: object) -> object:
    return value.array() if isinstance(value, _Array) else value


class _Reader(pickle.Unpickler):
    """Admits the names that NumPy's arrays are pickled with, and no others."""

    def __init__(self, stream: BinaryIO) -> None:
        # The published files were written by Python 2, whose str are bytes.
        super().__init__(stream, encoding="bytes")
        # Functions are made anew for each file: a pickle can set attributes of what it is given.
        self._names: Mapping[tuple[str, str], Callable[..., object]] = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("_codecs", "encode"): lambda text, encoding="latin1": _encode(text, encoding),
        }

    def find_class(self, module: str, name: str) -> Any:
        """Called for every global that the pickle names."""
        try:
            return self._names[module, name]
        except KeyError:
            raise _Refused(f"it names {module}.{name}, a batch of images has no use for that") from None

    def persistent_load(self, identity: object) -> Any:
        raise _Refused("it refers to something outside the file")
