"""EPE-NAS: whether images of one class move the output alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from torch import Tensor

    from predictors.proxies.signals import Signals

_K = 1e-5
_MANY = 100


@final
class EpeNas(Proxy):
    """Per class, s = Σ ln(|cᵢⱼ| + k) over the correlations of its images' gradients; the score is Σ |s| over classes.

    The gradients are those of `JacobCov`, in the first batch. With more than 100 outputs s is divided by the class's
    images, and the score is the mean over classes of Σ |s − s′| over the others. As published, classes with one image
    count ln(1 + k), if there are at most 100 outputs, and are left out otherwise; classes without images do not count.
    """

    about = About(
        name="epe_nas",
        title="EPE-NAS",
        paper=(
            "Lopes et al., EPE-NAS: Efficient Performance Estimation Without Training for Neural Architecture Search, "
            "ICANN 2021"
        ),
        formula="Σ over classes of |Σ ln(|c| + k)|, c the correlations of ∂(Σ outputs)/∂image within it, k = 1e-5",
        needs=frozenset(("forward", "backward", "labels")),
        failure=(
            "Grows with the square of the images per class, so scores of other batches do not compare; repeats poorly. "
            "Undefined where no class has two images, and where Jacobian covariance is."
        ),
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.input_gradients` for what is refused; `NotDefined` too if no class has two images."""
        gradients = signals.input_gradients()
        return per_class(gradients.correlations(), signals.batches[0][1], gradients.outputs)


def per_class(correlations: Tensor, labels: Tensor, outputs: int) -> float:
    """The score from (n, n) correlations and (n,) labels. Raises `NotDefined` where no class has two images."""
    import torch

    _, places, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    if int(counts.max()) < 2:
        raise NotDefined("no class has two images in the batch")
    # (classes, n) memberships sum the logarithms within each class.
    members = torch.nn.functional.one_hot(places).T.to(correlations)
    sums = ((members @ (correlations.abs() + _K).log()) * members).sum(dim=1)
    if outputs <= _MANY:
        return float(sums.abs().sum())
    means = (sums / counts)[counts > 1]
    return float((means[:, None] - means).abs().sum() / len(means))
