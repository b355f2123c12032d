"""Splits, normalisation and digests of data sets."""

from __future__ import annotations

import numpy as np
import pytest

from service.evaluation.datasets import RawImages, announce, load_dataset, make_dataset
from tests.shared import SHARED, needs_shared


def raw(count: int = 60, classes: int = 3, seed: int = 0) -> RawImages:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 2, 4, 4)).astype(np.uint8)
    return RawImages(images, np.arange(count, dtype=np.int64) % classes, classes)


def test_splits_share_no_image_and_are_stratified() -> None:
    dataset = make_dataset("x", raw())
    assert dataset.counts == {"train": 36, "validation": 12, "test": 12}
    for split in dataset.splits.values():
        assert np.ptp(np.bincount(split.labels, minlength=3)) == 0
    seen = [image.tobytes() for split in dataset.splits.values() for image in split.pixels]
    assert len(set(seen)) == len(seen) == 60


def test_the_split_does_not_depend_on_the_order_of_images() -> None:
    one = raw()
    order = np.random.default_rng(1).permutation(60)
    other = RawImages(one.images[order], one.labels[order], 3)
    for name in ("train", "validation", "test"):
        left = {image.tobytes() for image in make_dataset("x", one).splits[name].pixels}
        right = {image.tobytes() for image in make_dataset("x", other).splits[name].pixels}
        assert left == right


def test_equal_images_stay_on_one_side_when_there_is_room() -> None:
    base = raw(30, 2)
    twice = RawImages(np.concatenate([base.images] * 2), np.concatenate([base.labels] * 2), 2)
    dataset = make_dataset("x", twice)
    sides = {
        name: {image.tobytes() for image in dataset.splits[name].pixels} for name in ("train", "validation", "test")
    }
    assert not sides["train"] & sides["test"]
    assert not sides["train"] & sides["validation"]


def test_the_published_test_split_is_kept() -> None:
    base = raw(60)
    published = np.arange(45, 60, dtype=np.int64)
    dataset = make_dataset("x", RawImages(base.images, base.labels, 3, test=published))
    assert np.array_equal(dataset.splits["test"].pixels, base.images[45:])
    assert dataset.counts["validation"] == 6  # 10 % of 15 of each of 3 classes, rounded
    assert dataset.counts["train"] == 39


def test_training_images_are_normalised_per_channel() -> None:
    base = raw(300)
    images = base.images.copy()
    images[:, 0] //= 4
    dataset = make_dataset("x", RawImages(images, base.labels, 3))
    normal = dataset.splits["train"].images()
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(axis=(0, 2, 3)), 1, atol=1e-5)
    rows = np.array([3, 1])
    np.testing.assert_array_equal(dataset.splits["train"].images(rows), normal[rows])


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    base = raw()
    images = base.images.copy()
    images[:, 1] = 7
    normal = make_dataset("x", RawImages(images, base.labels, 3)).splits["test"].images()
    assert np.isfinite(normal).all()
    assert not normal[:, 1].any()


def test_the_digest_sees_pixels_labels_and_splits_but_not_the_name() -> None:
    base = raw()
    digest = make_dataset("x", base).digest
    assert make_dataset("y", raw()).digest == digest
    brighter = base.images.copy()
    brighter[5, 0, 0, 0] ^= 1
    swapped = base.labels.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        RawImages(brighter, base.labels, 3),
        RawImages(base.images, swapped, 3),
        RawImages(base.images, base.labels, 3, test=np.arange(6, dtype=np.int64)),
        RawImages(base.images.astype(np.float32), base.labels, 3),
    ]
    assert len({digest, *(make_dataset("x", other).digest for other in others)}) == 5


def test_digits_have_the_digest_that_other_machines_know() -> None:
    dataset = load_dataset("digits")
    assert dataset.digest == "6b589a258fb34b39134ace30ee8761a5c4d1e2cfcba867bc0f600de58c85c78f"
    assert dataset.counts == {"train": 1079, "validation": 359, "test": 359}
    out = announce(dataset)
    assert (out.name, out.shape, out.classes) == ("digits", [1, 8, 8], 10)


def test_a_name_before_the_kind_renames() -> None:
    assert load_dataset("mine=digits").name == "mine"
    assert load_dataset("mine=digits").digest == load_dataset("digits").digest


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "must be"),
        ("digits:/somewhere", "takes no path"),
        ("pictures:/x", "there are: cifar10"),
        ("Big Name=digits", "must be"),
        ("npz", "needs a file"),
        ("cifar10", "needs a folder"),
        ("idx", "needs a folder"),
        ("folder", "needs a folder"),
        ("npz:/nowhere/at/all.npz", "no such file"),
        ("idx:/nowhere/at/all", "no such folder"),
        ("folder:/nowhere/at/all", "no such folder"),
        ("cifar10:/nowhere/at/all", "data_batch_1"),
    ],
)
def test_wrong_specs_say_what_would_be_right(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_dataset(spec)


def test_a_class_needs_an_image_for_every_split() -> None:
    labels = np.array([0] * 10 + [1] * 2, dtype=np.int64)
    with pytest.raises(ValueError, match="class 1 has 2 images"):
        make_dataset("x", RawImages(np.zeros((12, 1, 4, 4), np.uint8), labels, 2))


@needs_shared
@pytest.mark.parametrize(
    ("file", "shape", "counts"),
    [
        ("cifar10_train_exact_4000.npz", (3, 32, 32), {"train": 2400, "validation": 800, "test": 800}),
        ("mnist_train_10000.npz", (1, 28, 28), {"train": 6000, "validation": 2000, "test": 2000}),
    ],
)
def test_real_archives(file: str, shape: tuple[int, int, int], counts: dict[str, int]) -> None:
    path = SHARED / "data" / "images" / file
    dataset = load_dataset(f"real=npz:{path}")
    assert (dataset.name, dataset.shape, dataset.classes) == ("real", shape, 10)
    assert sum(dataset.counts.values()) == sum(counts.values())
    for name, count in counts.items():
        assert abs(dataset.counts[name] - count) <= 5  # rounding, class by class
    with np.load(path) as archive:
        pixels = {image.tobytes() for split in dataset.splits.values() for image in np.moveaxis(split.pixels, 1, -1)}
        assert all(image.tobytes() in pixels for image in archive["x"][:50])
