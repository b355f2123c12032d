"""Zen-score: how expressive the feature maps are, whatever normalisation makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, Proxy

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals


@final
class Zen(Proxy):
    """ln E|f(x) − f(x + γε)| + Σ ln √v̄, for weights, x and ε of standard normal numbers, γ = 0.01.

    f is the network up to its last global pooling (`predictors.proxies.perturbed.feature_maps` says what that is), |·|
    the sum of absolute differences of an image, E the mean over as many images as the first batch has, of its shape; v̄
    is, for each normalisation, the mean over channels of the variances that it divides by, so that the score is that
    of the network without it. The data do not enter, nor do the network's weights: those of convolutions and linear
    layers are drawn, with biases 0, scales 1 and offsets 0. ``repeats`` (32 as published) is the number of drawings,
    whose mean is the score.

    What differs from the published code: it takes running variances for v̄, which after one pass are a tenth of the
    batch's and nine tenths of what they were; here they are the batch's, as in the paper. It leaves shortcuts out of
    its own networks, which nobody can do to a network that is not his: they stay. Layer, group and instance norms are
    an extension, and count like batch norms; a network without any is passed in float64.
    """

    about = About(
        name="zen",
        title="Zen-score",
        paper="Lin et al., Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition, ICCV 2021",
        formula="ln E|f(x) − f(x + 0.01 ε)| + Σ over normalisations of ln √(mean variance), f the feature maps",
        needs=frozenset(("forward", "feature_maps")),
        failure=(
            "Grows with depth, width and the size of the feature maps; says little among networks of one size. "
            "Undefined without feature maps before a pooling or a flattening, and where they ignore the image."
        ),
    )

    def __init__(self, *, gamma: float = 0.01, repeats: int = 1) -> None:
        """Raises ValueError for gamma not above 0 or no repeats."""
        if not gamma > 0 or repeats < 1:
            raise ValueError(f"gamma must be above 0 and repeats above 0, are {gamma} and {repeats}")
        self._gamma, self._repeats = gamma, repeats

    def score(self, signals: Signals) -> float:
        """See `predictors.proxies.perturbed.zen` for what is refused."""
        from predictors.proxies import perturbed

        name = f"zen {self._gamma} {self._repeats}"
        return signals.once(name, lambda: perturbed.zen(signals, self._gamma, self._repeats))
