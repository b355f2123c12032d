"""The condition of the neural tangent kernel: how evenly gradient descent learns the images of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

_SINGULAR = 1e-10
"""The least share of the largest eigenvalue that gradients in float32 can tell from none."""


@final
class NtkCondition(Proxy):
    """λ_max / λ_min of Θᵢⱼ = ⟨∂sᵢ/∂θ, ∂sⱼ/∂θ⟩ over the first batch, sᵢ the sum of image i's outputs, θ the weights.

    Weights are those of `Conv2d` and `Linear` layers and the scales of normalisations, as published. Batch norm
    normalises each image by itself, as in GradSign: the network then is a function of one image, as a tangent kernel
    asks for, and the whole batch takes one backward pass. The published code normalises over the batch, so each output
    depends on all images and each row of the kernel takes a backward pass through all of them: ``whole_batch``.
    It also draws the weights anew several times and averages; here they are the network's own. Its eigenvalues are
    those of float32 numbers, of which the least is noise, and negative at times, from about 1e6 on.
    """

    about = About(
        name="ntk_condition",
        title="NTK condition number",
        paper="Chen et al., Neural Architecture Search on ImageNet in Four GPU Hours (TE-NAS), ICLR 2021",
        formula="λ_max / λ_min of ⟨∂s/∂θ, ∂s′/∂θ⟩ over pairs of images, s the sum of an image's outputs",
        needs=frozenset(("forward", "backward")),
        failure=(
            "Grows with the number of images, and is large where two of them are alike, whatever the network. "
            "Undefined above 1e10, where the kernel is singular to float32, and where GradSign is for its layers."
        ),
        direction="lower",
        unit="ratio",
    )

    def __init__(self, *, whole_batch: bool = False) -> None:
        self._whole_batch = whole_batch

    def score(self, signals: Signals) -> float:
        """See `Signals.tangent_kernel` for what is refused; `NotDefined` too if it is singular."""
        import torch

        kernel = signals.tangent_kernel(whole_batch=self._whole_batch)
        values = torch.linalg.eigvalsh(kernel)
        smallest, largest = float(values[0]), float(values[-1])
        if not smallest > _SINGULAR * largest:
            raise NotDefined(f"the kernel of {len(kernel)} images is singular: images whose gradients are alike")
        return largest / smallest
