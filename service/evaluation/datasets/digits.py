"""``digits``: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn (Alpaydin & Kaynak, UCI 1998)."""

from __future__ import annotations

import numpy as np

from service.evaluation.datasets.raw import RawImages


def load(path: str | None) -> RawImages:
    """(1797, 1, 8, 8) uint8 in 0..16, 10 classes; split 1,079 / 359 / 359. Takes no path."""
    from sklearn.datasets import load_digits

    if path is not None:
        raise ValueError(f"digits comes with scikit-learn and takes no path, got {path!r}")
    bunch = load_digits()
    return RawImages(bunch.images[:, None].astype(np.uint8), bunch.target.astype(np.int64), 10)
