"""Every format of images, made in a temporary folder; broken files; a pickle that wants to run code."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.evaluation.datasets import load_dataset
from service.evaluation.datasets.cifar10 import read_batch
from service.evaluation.datasets.folder import load as load_folder
from service.evaluation.datasets.idx import load as load_idx
from service.evaluation.datasets.npz import load as load_npz

RNG = np.random.default_rng(0)


def some_images(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RNG.integers(0, 256, shape).astype(np.uint8)


# ---------------------------------------------------------------------- npz


def npz(folder: Path, **arrays: Any) -> str:
    file = folder / "images.npz"
    np.savez(file, **arrays)
    return str(file)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((12, 8, 8), (12, 1, 8, 8)),
        ((12, 8, 8, 3), (12, 3, 8, 8)),
        ((12, 3, 8, 8), (12, 3, 8, 8)),
        ((12, 1, 8, 8), (12, 1, 8, 8)),
        ((12, 8, 6, 1), (12, 1, 8, 6)),
        ((12, 2, 8, 8), (12, 2, 8, 8)),
        ((12, 3, 8, 4), (12, 3, 8, 4)),
    ],
)
def test_npz_finds_the_axis_of_channels(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    x = some_images(*shape)
    raw = load_npz(npz(tmp_path, x=x, y=np.arange(12) % 2))
    assert raw.images.shape == expected
    assert raw.images.dtype == np.uint8
    flat = x[:, None] if x.ndim == 3 else x
    moved = flat if flat.shape == expected else np.moveaxis(flat, -1, 1)
    np.testing.assert_array_equal(raw.images, moved)


def test_npz_keeps_small_integers_exact_and_floats_as_they_are(tmp_path: Path) -> None:
    y = np.arange(12) % 2
    assert load_npz(npz(tmp_path, x=some_images(12, 4, 8).astype(np.int64), y=y)).images.dtype == np.uint8
    assert load_npz(npz(tmp_path, x=RNG.normal(size=(12, 4, 8)), y=y)).images.dtype == np.float32
    assert load_npz(npz(tmp_path, x=some_images(12, 4, 8).astype(np.int16) * 16, y=y)).images.dtype == np.float32


def test_npz_numbers_classes_in_the_order_of_labels(tmp_path: Path) -> None:
    raw = load_npz(npz(tmp_path, x=some_images(4, 5, 5), y=np.array([[7], [3], [7], [100]])))
    assert raw.labels.tolist() == [1, 0, 1, 2]
    assert raw.classes == 3


BAD_FLOATS = np.zeros((4, 5, 5), dtype=np.float32)
BAD_FLOATS[2, 1, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": some_images(4, 5, 5)}, "has no y; it holds"),
        ({"images": some_images(4, 5, 5)}, "has no x and no y"),
        ({"x": some_images(4, 5, 5), "y": np.arange(3)}, "4 images but 3 labels"),
        ({"x": some_images(4, 5, 5), "y": np.zeros(4, dtype=int)}, "at least 2 classes"),
        ({"x": BAD_FLOATS, "y": np.arange(4) % 2}, "image 2 has NaN"),
        ({"x": np.full((4, 5, 5), 1e300), "y": np.arange(4) % 2}, "image 0 has NaN or infinite"),
        ({"x": np.array([{}, {}], dtype=object), "y": np.arange(2)}, "x cannot be read"),
        ({"x": some_images(4, 5, 5), "y": np.array(["a", "b", "c", "d"])}, "whole numbers"),
        ({"x": some_images(4, 5, 5), "y": np.eye(4)}, "one class number per image"),
        ({"x": some_images(4, 5, 5), "y": np.linspace(0, 1, 4)}, "whole numbers"),
        ({"x": np.array(["a", "b"]), "y": np.arange(2)}, "must be numbers"),
        ({"x": some_images(4, 5), "y": np.arange(4)}, "must be \\(n, h, w\\)"),
        ({"x": some_images(4, 3, 8, 3), "y": np.arange(4)}, "axis of channels"),
        ({"x": some_images(4, 8, 8, 8), "y": np.arange(4)}, "axis of channels"),
        ({"x": some_images(4, 0, 8), "y": np.arange(4)}, "no pixels"),
    ],
)
def test_bad_archives_name_the_file_and_the_fault(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_dataset(f"npz:{npz(tmp_path, **arrays)}")
    assert "images.npz" in str(caught.value)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(ValueError, match=r"text.npz"):
        load_npz(str(text))
    single = tmp_path / "single.npz"
    with single.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match=r"is no \.npz archive"):
        load_npz(str(single))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(Path(npz(tmp_path, x=some_images(4, 5, 5), y=np.arange(4))).read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cut.npz"):
        load_npz(str(cut))


# ---------------------------------------------------------------------- idx


def write_idx(file: Path, array: np.ndarray[Any, Any], *, cut: int = 0) -> None:
    data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    data = data[: len(data) - cut]
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)


def mnist(folder: Path, suffix: str = "") -> tuple[Any, Any]:
    train, test = some_images(20, 6, 5), some_images(8, 6, 5)
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", train)
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", np.arange(20) % 2)
    write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", test)
    write_idx(folder / f"t10k-labels-idx1-ubyte{suffix}", np.arange(8) % 2)
    return train, test


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_plain_and_packed(tmp_path: Path, suffix: str) -> None:
    train, test = mnist(tmp_path, suffix)
    dataset = load_dataset(f"idx:{tmp_path}")
    assert dataset.shape == (1, 6, 5)
    assert dataset.counts == {"train": 18, "validation": 2, "test": 8}
    np.testing.assert_array_equal(dataset.splits["test"].pixels[:, 0], test)
    np.testing.assert_array_equal(load_idx(str(tmp_path)).images[:20, 0], train)


def test_idx_prefers_the_unpacked_of_two_equal_files(tmp_path: Path) -> None:
    mnist(tmp_path)
    packed = tmp_path / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(b"not even gzip")
    assert len(load_idx(str(tmp_path)).images) == 28


@pytest.mark.parametrize(
    ("file", "array", "cut", "words"),
    [
        ("t10k-images-idx3-ubyte", some_images(8, 6, 5), 3, "promises 240 bytes"),
        ("t10k-images-idx3-ubyte", some_images(8, 30), 0, "not an idx file of 3 dimensions"),
        ("t10k-images-idx3-ubyte", some_images(8, 7, 5), 0, "training images are"),
        ("t10k-labels-idx1-ubyte", np.arange(7), 0, "7 labels for the 8 images"),
        ("train-images-idx3-ubyte", some_images(2, 1, 1), 16, "not an idx file"),
    ],
)
def test_bad_idx_files(tmp_path: Path, file: str, array: Any, cut: int, words: str) -> None:
    mnist(tmp_path)
    write_idx(tmp_path / file, array, cut=cut)
    with pytest.raises(ValueError, match=words):
        load_dataset(f"idx:{tmp_path}")


def test_idx_longer_than_promised_and_missing(tmp_path: Path) -> None:
    mnist(tmp_path, ".gz")
    long = tmp_path / "train-labels-idx1-ubyte.gz"
    long.write_bytes(gzip.compress(gzip.decompress(long.read_bytes()) + b"x" * 100))
    with pytest.raises(ValueError, match="there are more"):
        load_dataset(f"idx:{tmp_path}")
    long.write_bytes(b"\x1f\x8b broken")
    with pytest.raises(ValueError, match="cannot be read"):
        load_dataset(f"idx:{tmp_path}")
    long.unlink()
    with pytest.raises(ValueError, match="exactly one train-labels"):
        load_dataset(f"idx:{tmp_path}")


# ---------------------------------------------------------------------- CIFAR-10

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def batch(count: int = 20, **changes: Any) -> dict[bytes, Any]:
    body: dict[bytes, Any] = {
        b"batch_label": b"training batch 1 of 5",
        b"labels": [index % 10 for index in range(count)],
        b"data": some_images(count, 3072),
        b"filenames": [b"a.png"] * count,
    }
    return body | {key.encode(): value for key, value in changes.items()}


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("folder", ["", "cifar-10-batches-py"])
def test_cifar10_batches(tmp_path: Path, protocol: int, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    bodies = [batch() for _ in BATCHES]
    for name, body in zip(BATCHES, bodies, strict=True):
        order = np.asfortranarray if protocol == 4 else np.ascontiguousarray
        (tmp_path / folder / name).write_bytes(pickle.dumps(body | {b"data": order(body[b"data"])}, protocol))
    dataset = load_dataset(f"c=cifar10:{tmp_path}")
    assert dataset.shape == (3, 32, 32)
    assert dataset.counts == {"train": 90, "validation": 10, "test": 20}
    expected = bodies[-1][b"data"].reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(dataset.splits["test"].pixels, expected)
    assert dataset.splits["test"].labels.tolist() == bodies[-1][b"labels"]


def python2_batch() -> bytes:
    """A batch as Python 2 wrote it: str are bytes, arrays come through numpy.core.multiarray."""
    pixels = bytes(range(256)) * 12

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<I", len(pixels)) + pixels + b"tb"
    )
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"](K\x03e" + b"u."


def test_a_batch_written_by_python_2(tmp_path: Path) -> None:
    file = tmp_path / "batch"
    file.write_bytes(python2_batch())
    images, labels = read_batch(file)
    assert images.shape == (1, 3, 32, 32)
    assert images.reshape(-1)[:5].tolist() == [0, 1, 2, 3, 4]
    assert labels.tolist() == [3]


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.target}'",)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "batch"
    for body in (Evil(trace), batch(labels=Evil(trace)), batch(data=Evil(trace)), batch(more=Evil(trace))):
        data = pickle.dumps(body, protocol=2)
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"batch: refused: it names (posix|nt)\.system"):
            read_batch(file)
        assert not trace.exists()
    pickle.loads(data)
    assert trace.exists(), "the pickle of this test does nothing: it shows nothing"


@pytest.mark.parametrize(
    "stream",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
        b"c__builtin__\nexec\n(S'1'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
        b"Pidentity\n.",
        b"\x80\x02\x82\x01.",
        b"c_codecs\nencode\n(VA\nVrot13\ntR.",
    ],
)
def test_other_names_and_references_are_refused(tmp_path: Path, stream: bytes) -> None:
    file = tmp_path / "batch"
    file.write_bytes(stream)
    with pytest.raises(ValueError, match=r"batch: (refused|is not a CIFAR-10 batch)"):
        read_batch(file)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([1, 2], "must hold a dictionary"),
        ({b"data": some_images(2, 3072)}, "must have data and labels"),
        (batch(labels=[1, 2]), "20 images but 2 labels"),
        (batch(labels=[10] * 20), "from 0 to 9"),
        (batch(labels=[True] * 20), "from 0 to 9"),
        (batch(labels="abc"), "list of whole numbers"),
        (batch(data=b"abc"), "array of bytes"),
        (batch(data=some_images(20, 100)), "array of bytes"),
        (batch(data=np.zeros((20, 3072))), "must be unsigned bytes"),
        (batch(data=np.array([[None] * 3072] * 20)), "refused|without shape|unsigned bytes"),
    ],
)
def test_bad_batches(tmp_path: Path, body: Any, words: str) -> None:
    file = tmp_path / "batch"
    file.write_bytes(pickle.dumps(body, protocol=2))
    with pytest.raises(ValueError, match=words) as caught:
        read_batch(file)
    assert str(file) in str(caught.value)


def test_a_batch_that_ends_early(tmp_path: Path) -> None:
    file = tmp_path / "batch"
    file.write_bytes(python2_batch()[:-200])
    with pytest.raises(ValueError, match="not a CIFAR-10 batch"):
        read_batch(file)


# ---------------------------------------------------------------------- folders


def picture(file: Path, size: tuple[int, int] = (40, 40), mode: str = "RGB", colour: int | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = some_images(size[1], size[0], bands) if colour is None else np.full((size[1], size[0], bands), colour)
    Image.fromarray(np.squeeze(pixels.astype(np.uint8)), mode=None).convert(mode).save(file)


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / "cats" / f"{number}.png", (40, 30))
        picture(tmp_path / "dogs" / f"{number}.jpg", (64, 64), "L")
    (tmp_path / "dogs" / "notes.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    raw = load_folder(str(tmp_path))
    assert raw.images.shape == (12, 3, 32, 32)
    assert raw.labels.tolist() == [0] * 6 + [1] * 6
    assert raw.test is None
    np.testing.assert_array_equal(raw.images[6, 0], raw.images[6, 2])
    assert load_dataset(f"pets=folder:{tmp_path}?size=16").shape == (3, 16, 16)


def test_grey_folders_have_one_channel_and_sizes_are_kept_exactly(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png", (32, 32), "L", colour=number)
        picture(tmp_path / "b" / f"{number}.png", (50, 40), "L", colour=100 + number)
    raw = load_folder(str(tmp_path))
    assert raw.images.shape == (6, 1, 32, 32)
    assert [int(image.min()) for image in raw.images] == [0, 1, 2, 100, 101, 102]
    assert [int(image.max()) for image in raw.images] == [0, 1, 2, 100, 101, 102]


def test_train_and_test_folders_keep_the_published_split(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("test", 2)):
        for label in ("a", "b"):
            for number in range(count):
                picture(tmp_path / part / label / f"{number}.png")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.counts == {"train": 8, "validation": 2, "test": 4}


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        load_folder(str(tmp_path))
    picture(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        load_folder(str(tmp_path))
    (tmp_path / "b" / "broken.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(ValueError, match=r"broken\.png: cannot be read"):
        load_folder(str(tmp_path))
    with pytest.raises(ValueError, match="size=N"):
        load_folder(f"{tmp_path}?size=tiny")
    (tmp_path / "b" / "broken.png").unlink()
    Image.fromarray(np.full((8, 8), 60_000, dtype=np.uint16)).save(tmp_path / "b" / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        load_folder(str(tmp_path))
