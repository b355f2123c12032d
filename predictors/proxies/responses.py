"""What a batch does to a network in one forward pass: which rectifiers it switches on, and its last representation.

The patterns of a batch are (images × units) bits, some millions in a network of usual size. What proxies ask of them
is smaller, and summed up while the pass goes on: on how many units two images agree (n × n numbers), and each unit's
own bits over the images, 24 to a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from predictors.proxies.proxy import NotDefined
from predictors.proxies.rectifiers import Watch
from predictors.proxies.whole_batch import PROBED, finite, in_double, is_noise, together

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

T = TypeVar("T")

BITS = 24
"""Bits in a word: what float32 adds up exactly, so that a matrix product packs them."""
_UNITS = 1 << 16
"""Units whose bits are numbers at a time: few enough for a processor's cache, and for float32 to count them exactly."""
_FLIPS, _FEWEST_FLIPS = 0.05, 4
"""Share and number of a call's bits that may differ in float64; healthy calls stay below a thousandth."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """Which rectifiers are on, for which image.

    Attributes:
        agreements: (n, n) float64: on how many units two images agree.
        units: the number of rectified numbers per image.
        words: (⌈n / 24⌉, units) int32: bit i of word w says whether image 24 w + i switches the unit on.
    """

    agreements: Tensor
    units: int
    words: Tensor


@dataclass(frozen=True, slots=True)
class Responses:
    """Of the images of a batch. Asked for what is not defined, it raises the `NotDefined` that says why."""

    _patterns: Patterns | NotDefined
    _representation: Tensor | NotDefined

    @property
    def patterns(self) -> Patterns:
        """See `Patterns`. Not defined: no rectifier, one fed other rows than the images, signs of rounding noise."""
        return _or_raise(self._patterns)

    @property
    def representation(self) -> Tensor:
        """(n, d): what the last convolution or linear layer that is called sees, in the order of its own numbers.

        Not defined: no such layer, one fed other rows than the images, numbers that are rounding noise.
        """
        return _or_raise(self._representation)


def responses(signals: Signals, images: Tensor) -> Responses:
    """One pass over ``images``, batch norm over all of them, and one over four of them in float64.

    Raises `NotDefined` for one image, an output that is not finite or has other rows than the images, one value for a
    batch norm to normalise, and a network that does not run in float64.
    """
    if len(images) < 2:
        raise NotDefined("one image has nothing to be compared with")
    network = together(signals.copy())
    probes = images[:PROBED]
    expected = in_double(_observe, together(signals.copy(torch.float64)), probes)
    found = _observe(network, probes)
    whole = _Summary(len(images))
    _forward(network, images, whole)
    return Responses(whole.patterns(_noise(found, expected)), whole.representation(_blurred(found, expected)))


def digests(signals: Signals, images: Tensor) -> list[bytes]:
    """128 bits for each image: those of equal images' patterns are equal.

    Raises `NotDefined` as `responses` does, and where its patterns are not defined.
    """
    network = together(signals.copy())
    probes = images[:PROBED]
    expected = in_double(_observe, together(signals.copy(torch.float64)), probes)
    if noise := _noise(_observe(network, probes), expected):
        raise NotDefined(noise)
    hashes = [blake2b(digest_size=16) for _ in images]

    def rectifier(x: Tensor) -> None:
        if len(x) != len(images):
            raise NotDefined(f"a rectifier sees {len(x)} rows for {len(images)} images")
        for packed, digest in zip(np.packbits((x > 0).flatten(1).cpu().numpy(), axis=1), hashes, strict=True):
            digest.update(packed.tobytes())

    with torch.no_grad(), Watch(rectifier, lambda x: None):
        finite(network(images), len(images))
    if not expected.calls:
        raise NotDefined("the network has no ReLU, nor another rectifier")
    return [digest.digest() for digest in hashes]


class _Bits:
    """Each call's bits, and the last layer's input."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []
        self.last: Tensor | None = None

    def rectifier(self, x: Tensor) -> None:
        self.calls.append(x > 0)

    def layer(self, x: Tensor) -> None:
        self.last = x


class _Summary:
    """The sums over all calls."""

    def __init__(self, count: int) -> None:
        self._count, self._units = count, 0
        self._both = self._on = torch.zeros(0)
        self._words: list[Tensor] = []
        self._last: Tensor | None = None
        self._refusal: NotDefined | None = None

    def rectifier(self, x: Tensor) -> None:
        if self._refusal or len(x) != self._count:
            self._refusal = self._refusal or NotDefined(f"a rectifier sees {len(x)} rows for {self._count} images")
            return
        if not self._units:
            self._both, self._on = x.new_zeros((self._count,) * 2).double(), x.new_zeros(self._count).double()
            places = torch.arange(self._count, device=x.device)
            self._weights = torch.zeros((-(-self._count // BITS), self._count), device=x.device)
            self._weights[places // BITS, places] = 2.0 ** (places % BITS)
        x = x.flatten(1)
        self._units += x.shape[1]
        for part in torch.split(x, _UNITS, dim=1):
            bits = (part > 0).float()
            self._both += bits @ bits.T
            self._on += bits.sum(dim=1)
            self._words.append((self._weights @ bits).int())

    def layer(self, x: Tensor) -> None:
        self._last = x

    def patterns(self, noise: str | None) -> Patterns | NotDefined:
        if self._refusal:
            return self._refusal
        if not self._units:
            return NotDefined("the network has no ReLU, nor another rectifier")
        if noise:
            return NotDefined(noise)
        # Agreements are units on for both and units off for both.
        agreements = 2 * self._both - self._on[:, None] - self._on + self._units
        if float(agreements.min()) == self._units:
            return NotDefined("no rectifier tells two images apart")
        return Patterns(agreements, self._units, torch.cat(self._words, dim=1))

    def representation(self, blurred: bool) -> Tensor | NotDefined:
        if self._last is None:
            return NotDefined("the network has no convolution or linear layer")
        if len(self._last) != self._count:
            return NotDefined(f"the last layer sees {len(self._last)} rows for {self._count} images")
        if blurred:
            return NotDefined("what tells the images' representations apart is rounding noise")
        return self._last.flatten(1)


def _forward(network: nn.Module, images: Tensor, into: _Bits | _Summary) -> None:
    with torch.no_grad(), Watch(into.rectifier, into.layer):
        output = network(images)
    finite(output, len(images))


def _observe(network: nn.Module, images: Tensor) -> _Bits:
    bits = _Bits()
    _forward(network, images, bits)
    return bits


def _noise(found: _Bits, expected: _Bits) -> str | None:
    for place, (one, other) in enumerate(zip(found.calls, expected.calls, strict=True)):
        flips = int((one != other).sum())
        if flips >= _FEWEST_FLIPS and flips > _FLIPS * one.numel():
            return f"rectifier {place + 1}: {flips} of {one.numel()} signs turn in float64: they are rounding noise"
    return None


def _blurred(found: _Bits, expected: _Bits) -> bool:
    if found.last is None or expected.last is None or found.last.shape != expected.last.shape:
        return False
    centre, true_centre = found.last.mean(dim=0), expected.last.mean(dim=0)
    return is_noise(found.last - centre, expected.last - true_centre)


def _or_raise(found: T | NotDefined) -> T:
    if isinstance(found, NotDefined):
        raise found
    return found
