"""Sums of gradient signs over the images of a batch, held to the definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from predictors.proxies import per_image
from predictors.proxies.per_image import Probe
from predictors.proxies.products import Weighted, as_weight, products, sign_sum, weighted_layers
from predictors.proxies.proxy import NotDefined
from search_spaces.networks.memory import ran_out

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

_PROBED = 2
"""Images whose summed gradient is computed twice, the second time in float64."""
_SHARE, _FEWEST = 0.05, 4
"""Share and number of a layer's weights that may be noise, or have other signs in float64; one in 10⁴ is usual."""
_EXPLODED = 0.25
"""Share of other signs that is borne where rounding alone makes them; half of them would be guessed right."""
_LEFT = 1e-4
"""What float64 leaves of a gradient that is zero by structure is a billionth of what float32 does."""


def sign_sums(signals: Signals) -> dict[str, Tensor]:
    """See `Signals.sign_sums`."""
    images, labels = signals.batches[0]
    # Fewer than the batch has: a layer that mixes images then gives other gradients.
    probed = max(1, min(_PROBED, len(images) - 1))
    probe = _probe(signals, images[:probed], labels[:probed])
    chunk = signals.images_at_once(probe.bytes_per_image)
    network, first = per_image.separate(signals.copy()), _Sum(probed)
    sums: dict[str, Tensor] = {}

    def add(name: str, layer: Weighted, inputs: Tensor, delta: Tensor) -> None:
        first.add(name, layer, inputs, delta)
        total = sign_sum(layer, inputs, delta)
        sums[name] = sums[name].add_(total) if name in sums else total

    for start in range(0, len(images), chunk):
        per_image.backward(network, images[start : start + chunk], labels[start : start + chunk], add)
    layers = dict(weighted_layers(signals.network))
    _check(probe, first.gradients(layers), lambda: _again(signals, probed, layers))
    return {
        name: as_weight(layer, sums[name]) if name in sums else torch.zeros_like(probe.gradients[name]).float()
        for name, layer in layers.items()
    }


class _Sum:
    """Sums the gradients of the first images, layer by layer."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, layer: Weighted, inputs: Tensor, delta: Tensor) -> None:
        """Takes the next images of a layer."""
        few = min(len(inputs), self._count - self._taken.get(name, 0))
        if few <= 0:
            return
        self._taken[name] = self._taken.get(name, 0) + few
        for _, gradients in products(layer, inputs[:few], delta[:few]):
            total = gradients.sum(dim=1)
            self._sums[name] = self._sums[name].add_(total) if name in self._sums else total

    def gradients(self, layers: dict[str, Weighted]) -> dict[str, Tensor]:
        """By layer name, (weight.shape)."""
        return {name: as_weight(layers[name], total) for name, total in self._sums.items()}


def _probe(signals: Signals, images: Tensor, labels: Tensor) -> Probe:
    try:
        return per_image.probe(per_image.separate(signals.copy(torch.float64)), images.double(), labels)
    except RuntimeError as error:
        if ran_out(error):
            raise
        # What fails whatever the precision is raised here, as it is.
        signals.layer_calls()
        raise NotDefined(f"the network cannot be checked in float64: {error}") from error


def _again(signals: Signals, probed: int, layers: dict[str, Weighted]) -> dict[str, Tensor]:
    """The gradients of the first images as the batched pass makes them, in float64, with an image beside them."""
    images, labels = (part[: probed + 1] for part in signals.batches[0])
    found = _Sum(probed)
    per_image.backward(per_image.separate(signals.copy(torch.float64)), images.double(), labels, found.add)
    return found.gradients(layers)


def _check(probe: Probe, found: dict[str, Tensor], again: Callable[[], dict[str, Tensor]]) -> None:
    """Raises `NotDefined` where the batched pass does not have the gradients of the definition.

    Where gradients explode, rounding turns signs that mean something: a pass in float64 tells it from a mistake.
    """
    suspects = {}
    for name, (flips, noise, compared) in _differences(probe.gradients, found).items():
        if flips and name not in found:
            raise NotDefined(f"{name}: its weight is used outside of the layer")
        if noise >= _FEWEST and noise > _SHARE * compared:
            raise NotDefined(
                f"{name}: {noise} of {compared} gradients are zero by structure, and their signs rounding noise"
            )
        if flips >= _FEWEST and flips > _SHARE * compared:
            suspects[name] = flips, compared
    if not suspects:
        return
    exact = _differences(probe.gradients, again())
    for name, (flips, compared) in suspects.items():
        if exact[name][0] > _SHARE * compared:
            raise NotDefined(
                f"{name}: {exact[name][0]} of {compared} gradient signs are not the definition's: it does something "
                "else than its class, or images do not stay apart"
            )
        if flips > _EXPLODED * compared:
            raise NotDefined(f"{name}: gradients explode until rounding decides {flips} of {compared} of their signs")


def _differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, tuple[int, int, int]]:
    """Of each layer the signs that differ, the gradients of which float64 leaves nothing, and those other than zero.

    One transfer from the device for all layers.
    """
    counts = []
    for name, exact in expected.items():
        other = found.get(name, torch.zeros_like(exact))
        either = (exact != 0) | (other != 0)
        noise = exact.abs() < _LEFT * other.abs()
        counts.append(torch.stack([(exact.sign() != other.sign()).sum(), noise.sum(), either.sum()]))
    numbers = torch.stack(counts).tolist()
    return {name: (flips, noise, either) for name, (flips, noise, either) in zip(expected, numbers, strict=True)}
