"""SWAP: how many units see the batch differently."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from torch import Tensor

    from predictors.proxies.signals import Signals


@final
class Swap(Proxy):
    """The number of different patterns that rectified units show over the images, each pattern a bit per image.

    Over the first batch, or its first ``images``. Batch norm normalises over the batch. The published code takes 16
    images and networks three channels wide; a network of usual width shows all of their 65,536 patterns, so that the
    count is undefined, and a batch of 24 and more is asked for. With ``mu`` and ``sigma``, in
    parameters and parameters squared, the score is multiplied by exp(−(parameters − mu)² / sigma), the paper's
    regularisation. The published code draws Gaussian weights many times over and averages; here the weights are the
    network's own, and its repeats the caller's. `predictors.proxies.rectifiers` says what counts as a rectifier: the
    published code skips those that see no feature maps.
    """

    about = About(
        name="swap",
        title="SWAP-Score",
        paper="Peng et al., SWAP-NAS: Sample-Wise Activation Patterns for Ultra-fast NAS, ICLR 2024",
        formula="number of different patterns of units, a unit's pattern being on which of the images it is on",
        needs=frozenset(("forward", "relus")),
        failure=(
            "Grows with the number of units, and of many images counts little else; depends on the number of images. "
            "Undefined where no unit switches, where all patterns occur, as of few images, and without rectifiers."
        ),
        unit="patterns",
    )

    def __init__(self, *, images: int | None = None, mu: float | None = None, sigma: float | None = None) -> None:
        """Raises ValueError for fewer than 2 images, and for one of mu and sigma alone or sigma not above 0."""
        if images is not None and images < 2:
            raise ValueError(f"patterns need 2 images, got {images}")
        if (mu is None) != (sigma is None) or (sigma is not None and sigma <= 0):
            raise ValueError(f"mu and a positive sigma go together, got {mu} and {sigma}")
        self._images, self._mu, self._sigma = images, mu, sigma

    def score(self, signals: Signals) -> float:
        """See `Signals.responses` for what is refused; `NotDefined` too if no unit switches."""
        import torch

        patterns = signals.responses().patterns
        count = min(self._images or len(patterns.agreements), len(patterns.agreements))
        if float(patterns.agreements[:count, :count].min()) == patterns.units:
            raise NotDefined(f"no rectifier tells two of {count} images apart")
        found = float(different(patterns.words, count))
        if found == 2.0**count:
            raise NotDefined(f"all {found:.0f} patterns of {count} images occur: more images are needed")
        if self._mu is None or self._sigma is None:
            return found
        found *= math.exp(-((signals.parameters() - self._mu) ** 2) / self._sigma)
        if found < torch.finfo(torch.float64).tiny:
            raise NotDefined(f"{signals.parameters()} parameters are so far from {self._mu} that nothing is left")
        return found


def different(words: Tensor, images: int) -> int:
    """How many columns of bits differ over the first ``images``; (w, units) words of `Patterns`. Exact."""
    import torch

    from predictors.proxies.responses import BITS

    places = torch.zeros_like(words[0], dtype=torch.int64)
    for first in range(0, images, BITS):
        word = words[first // BITS] & ((1 << min(BITS, images - first)) - 1)
        # The place among the patterns so far stands for them: no more bits than there are units.
        places = torch.unique((places << BITS) | word, return_inverse=True)[1]
    return int(places.max()) + 1
