"""Sums of gradient signs over the images of a batch, held to the definition in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from predictors.proxies import per_image
from predictors.proxies.products import Weighted, as_weight, products, sign_sum, weighted_layers
from predictors.proxies.proxy import NotDefined
from search_spaces.networks.memory import ran_out

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

_PROBED = 2
"""Images whose summed gradient is computed twice, the second time in float64."""
_FLIPS, _FEWEST_FLIPS = 0.05, 4
"""Share and number of weights of a layer whose signs may differ in the two; healthy layers stay below a thousandth."""


def sign_sums(signals: Signals) -> dict[str, Tensor]:
    """See `Signals.sign_sums`."""
    images, labels = signals.batches[0]
    # Fewer than the batch has: a layer that mixes images then gives other gradients.
    probed = max(1, min(_PROBED, len(images) - 1))
    probe = _probe(signals, images[:probed], labels[:probed])
    chunk = signals.images_at_once(probe.bytes_per_image)
    sums: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}

    def add(name: str, layer: Weighted, inputs: Tensor, delta: Tensor) -> None:
        if len(places := range(start, min(probed, start + chunk))):
            few = slice(0, len(places))
            for _, gradients in products(layer, inputs[few], delta[few]):
                total = gradients.sum(dim=1)
                found[name] = found[name].add_(total) if name in found else total
        total = sign_sum(layer, inputs, delta)
        sums[name] = sums[name].add_(total) if name in sums else total

    network = per_image.separate(signals.copy())
    for start in range(0, len(images), chunk):
        rows = slice(start, start + chunk)
        per_image.backward(network, images[rows], labels[rows], add)
    layers = dict(weighted_layers(signals.network))
    seen = {name: as_weight(layers[name], total) for name, total in found.items()}
    _check_signs(probe.gradients, seen)
    return {
        name: as_weight(layer, sums[name]) if name in sums else torch.zeros_like(probe.gradients[name]).float()
        for name, layer in layers.items()
    }


def _probe(signals: Signals, images: Tensor, labels: Tensor) -> per_image.Probe:
    try:
        return per_image.probe(per_image.separate(signals.copy(torch.float64)), images.double(), labels)
    except RuntimeError as error:
        if ran_out(error):
            raise
        # What fails whatever the precision is raised here, as it is.
        signals.layer_calls()
        raise NotDefined(f"the network cannot be checked in float64: {error}") from error


def _check_signs(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Raises `NotDefined` where too many signs differ. One transfer from the device for all layers."""
    counts = []
    for name, gradient in expected.items():
        signs = gradient.sign()
        other = found[name].sign() if name in found else torch.zeros_like(signs)
        counts.append(torch.stack([(signs != other).sum(), ((signs != 0) | (other != 0)).sum()]))
    for name, (flips, compared) in zip(expected, torch.stack(counts).tolist(), strict=True):
        if flips and name not in found:
            raise NotDefined(f"{name}: its weight is used outside of the layer")
        if flips >= _FEWEST_FLIPS and flips > _FLIPS * compared:
            raise NotDefined(
                f"{name}: {flips} of {compared} gradient signs differ from the definition's in float64: the gradients "
                "are zero by structure and their signs rounding noise, or the layer does something else than its class"
            )
