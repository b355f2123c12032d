"""Sums of gradient signs over the images of a batch, held to the definition in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from predictors.proxies import per_image
from predictors.proxies.proxy import NotDefined

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

_PROBED = 2
"""Images whose gradients are computed twice, the second time one by one in float64."""
_FLIPS, _FEWEST_FLIPS = 0.05, 4
"""Share and number of weights of a layer whose signs may differ in the two; healthy layers stay below a thousandth."""


def sign_sums(signals: Signals) -> dict[str, Tensor]:
    """See `Signals.sign_sums`."""
    images, labels = signals.batches[0]
    numbers = sum(torch.Size(call.output_shape).numel() for call in signals.layer_calls())
    # The forward pass keeps about one number per output for the backward pass, and hooks keep the inputs.
    chunk = signals.images_at_once(4 * 3 * max(numbers, 1))
    probed = min(_PROBED, len(images))
    expected = per_image.reference_signs(signals.copy(torch.float64), images[:probed].double(), labels[:probed])
    network = per_image.separate(signals.copy())
    sums: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}

    def add(name: str, place: int, gradients: Tensor) -> None:
        signs = gradients.sign_()
        total = signs.sum(dim=1)
        sums[name] = sums[name] + total if name in sums else total
        if place < probed:
            total = signs[:, : probed - place].sum(dim=1)
            found[name] = found[name] + total if name in found else total

    for start in range(0, len(images), chunk):
        rows = slice(start, start + chunk)
        per_image.gradients(network, images[rows], labels[rows], start, add)
    layers = dict(per_image.weighted_layers(signals.network))
    result = {}
    for name, signs in expected.items():
        if name in sums:
            _check_signs(name, signs, per_image.as_weight(layers[name], found[name]))
            result[name] = per_image.as_weight(layers[name], sums[name])
        elif bool(signs.any()):
            raise NotDefined(f"{name}: its weight is used outside of the layer")
        else:
            result[name] = signs
    return result


def _check_signs(name: str, expected: Tensor, found: Tensor) -> None:
    flips = int((expected != found).sum())
    compared = int(((expected != 0) | (found != 0)).sum())
    if flips >= _FEWEST_FLIPS and flips > _FLIPS * compared:
        raise NotDefined(
            f"{name}: {flips} of {compared} gradient signs differ from the definition's in float64: the gradients are "
            "zero by structure and their signs rounding noise, or the layer does something else than its class"
        )
