"""The gradient of the summed outputs with respect to each image of a batch, and how alike such gradients are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from predictors.proxies.kept import keeping
from predictors.proxies.proxy import NotDefined
from predictors.proxies.whole_batch import PROBED, finite, in_double, is_noise, mixes_images, together

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

_CONSTANT = 1e-6
"""Spread of a gradient, relative to its size, below which float32 cannot tell it from a constant."""


@dataclass(frozen=True, slots=True)
class InputGradients:
    """``rows`` (n, d): image i's gradient, flattened; ``outputs``: the size of the output's last axis."""

    rows: Tensor
    outputs: int

    def correlations(self) -> Tensor:
        """(n, n) float64: Pearson's correlations of the images' gradients.

        Raises `NotDefined` where a gradient has no variance.
        """
        rows = self.rows.double()
        centred = rows - rows.mean(dim=1, keepdim=True)
        sizes = centred.norm(dim=1, keepdim=True)
        if bool((sizes <= _CONSTANT * rows.norm(dim=1, keepdim=True)).any()):
            flat = int((sizes <= _CONSTANT * rows.norm(dim=1, keepdim=True)).sum())
            raise NotDefined(f"the gradients of {flat} of {len(rows)} images have no variance, hence no correlation")
        centred /= sizes
        return centred @ centred.T


def input_gradients(signals: Signals) -> InputGradients:
    """One forward and backward pass over the first batch, and one over four of its images in float64.

    Batch norm normalises with the whole batch, whose images then cannot be parted; without batch norm they pass in
    chunks. Raises `NotDefined` for one image, an output that is not finite, has other rows than the images or does
    not depend on them, gradients that are rounding noise, one value for a batch norm to normalise, and a network that
    does not run in float64.
    """
    images = signals.batches[0][0]
    if len(images) < 2:
        raise NotDefined("one image has nothing to be compared with")
    network, probes = together(signals.copy()), images[:PROBED]
    double = together(signals.copy(torch.float64))
    with keeping(double) as kept:
        expected = in_double(_pass, double, probes)
    if is_noise(_pass(network, probes)[0], expected[0]):
        raise NotDefined(
            "the gradients are rounding noise: the sum of the outputs is constant by structure, as behind a batch norm "
            "that is averaged without an activation in between"
        )
    chunk = len(images)
    if not mixes_images(network):
        chunk = signals.images_at_once(kept.bytes // (2 * len(probes)))
    parts = [_pass(network, part) for part in torch.split(images, chunk)]
    return InputGradients(torch.cat([rows for rows, _ in parts]).flatten(1), parts[0][1])


def _pass(network: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        output = finite(network(images), len(images))
        if not output.requires_grad:
            raise NotDefined("the output does not depend on the images")
        (gradients,) = torch.autograd.grad(output.sum(), images, allow_unused=True)
    if gradients is None or not bool(gradients.any()):
        raise NotDefined("the output does not depend on the images")
    return gradients, output.shape[-1]
