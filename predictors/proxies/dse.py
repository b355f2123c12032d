"""Diffusion spectral entropy of what the last layer sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from torch import Tensor

    from predictors.proxies.signals import Signals

_EPS = 2.0**-52
_LEAST = 3


@final
class DiffusionEntropy(Proxy):
    """−Σ pᵢ log₂ pᵢ, pᵢ = |λᵢ|ᵗ / Σ |λ|ᵗ, over the eigenvalues λᵢ but the first of the diffusion on a batch.

    The representation of an image is the input of the last convolution or linear layer that is called, flattened: of a
    classifier, the penultimate one. The first batch is passed at once, and batch norm normalises over it. Between
    images i and j at the Euclidean distance d, the kernel is Gᵢⱼ = exp(−d² / 2σ²); the diffusion is
    D^(−1/2) G D^(−1/2), D the row sums, whose first eigenvalue is 1 for any data and is left out, as published code
    does. ``sigma`` is 10 and the diffusion time ``time`` (t) is 1 as published; None takes the median distance for σ,
    so that the score does not depend on the scale of the representation.
    """

    about = About(
        name="dse",
        title="Diffusion spectral entropy",
        paper=(
            "Liao et al., Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion "
            "Spectral Entropy, CISS 2024"
        ),
        formula="−Σ p log₂ p, p the eigenvalues but the first of the normalised Gaussian kernel (σ = 10), scaled to 1",
        needs=frozenset(("forward",)),
        failure=(
            "At most log₂ of the images less one, which networks reach whose representations lie far apart beside σ; "
            "undefined where the kernel then sees no neighbour, where the images' representations are alike, and for "
            "fewer than 3 images."
        ),
        unit="bits",
    )

    def __init__(self, *, sigma: float | None = 10.0, time: float = 1.0) -> None:
        """Raises ValueError for a bandwidth or a time that is not above 0."""
        if (sigma is not None and not sigma > 0) or not time > 0:
            raise ValueError(f"sigma and time must be above 0, are {sigma} and {time}")
        self._sigma, self._time = sigma, time

    def score(self, signals: Signals) -> float:
        """See `Signals.responses` and `entropy` for what is refused."""
        return entropy(signals.responses().representation, self._sigma, self._time)


def entropy(vectors: Tensor, sigma: float | None, time: float) -> float:
    """Of (n, d) vectors, in bits. ``sigma`` None: the median distance.

    Raises `NotDefined` for fewer than 3 vectors, for vectors that are all alike, for a kernel without neighbours, and
    where too long a time leaves nothing.
    """
    import torch

    if len(vectors) < _LEAST:
        raise NotDefined(f"{len(vectors)} images have a diffusion with nothing but its first eigenvalue or one beside")
    vectors = vectors.double()
    vectors = vectors - vectors.mean(dim=0)
    # Distances by differences, not by products, whose cancellation would cost half of the digits.
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    places = torch.triu_indices(len(vectors), len(vectors), 1)
    off = distances[places[0], places[1]].sort().values
    width = float(off[(len(off) - 1) // 2] + off[len(off) // 2]) / 2 if sigma is None else sigma
    if not bool(off.any()) or width == 0.0:
        raise NotDefined("the images have the same representation")
    kernel = (-(distances**2) / (2 * width**2)).exp()
    if float((-(off[0] ** 2) / (2 * width**2)).exp()) < _EPS:
        raise NotDefined(f"the nearest representations are {float(off[0]):.3g} apart: the kernel sees no neighbour")
    roots = kernel.sum(dim=1).rsqrt()
    values = torch.linalg.eigvalsh(roots[:, None] * kernel * roots)[:-1].abs()
    if float(values.max()) <= len(vectors) * _EPS:
        raise NotDefined("the representations differ too little beside the kernel's width: rounding noise")
    powers = values**time
    if not float(powers.sum()) > 0.0:
        raise NotDefined(f"after a diffusion of time {time:g} nothing is left")
    shares = powers / powers.sum()
    return max(0.0, -float(torch.special.xlogy(shares, shares).sum()) / math.log(2.0))
