"""Jacobian covariance: whether images move the output in different directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, Proxy

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

_K = 1e-5


@final
class JacobCov(Proxy):
    """−Σᵢ (ln(vᵢ + k) + 1/(vᵢ + k)) over the eigenvalues vᵢ of the correlations of the images' gradients, k = 1e-5.

    The gradient is that of the sum of all outputs with respect to an image of the first batch; the weights do not
    enter. As published (first version of the paper, and zero-cost-nas), batch norm normalises over the batch. The
    published code takes the eigenvalues of a matrix of float32 rows by a solver for unsymmetric ones, which gives
    complex numbers and eigenvalues below −k at times, and NaN; here the symmetric matrix is held in float64.
    """

    about = About(
        name="jacob_cov",
        title="Jacobian covariance",
        paper=(
            "Mellor et al., Neural Architecture Search without Training, arXiv 2006.04647v1, 2020; as a proxy: "
            "Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021"
        ),
        formula="−Σ (ln(v + k) + 1/(v + k)), v the eigenvalues of the correlations of ∂(Σ outputs)/∂image, k = 1e-5",
        needs=frozenset(("forward", "backward")),
        failure=(
            "Depends on the number of images. Near −1e5 per image, with little order left, where gradients are all "
            "alike, as in a network without activations. Undefined for one image, for gradients without variance, and "
            "where the summed output is constant by structure."
        ),
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.input_gradients` for what is refused."""
        import torch

        values = torch.linalg.eigvalsh(signals.input_gradients().correlations()).clamp(min=0.0) + _K
        return -float((values.log() + 1 / values).sum())
