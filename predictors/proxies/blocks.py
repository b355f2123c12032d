"""What a network's blocks do one after the other to noise, and to gradients of noise: AZ-NAS's three scores.

Blocks are members of a row of modules, a `Sequential` or `ModuleList`, that are made of modules themselves, are each
called once, and give feature maps (n, channels, height, width) or tokens (n, tokens, width). The row has two of them at
least, lies in no block of another row, and is the longest such. In a network of cells these are the cells and what
reduces between them, which is what the published code lists by hand for its search spaces. Without such a row, blocks
are layers, but for dropout and `Identity`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from predictors.proxies.proxy import NotDefined
from predictors.proxies.redrawn import kaiming, redraw
from predictors.proxies.whole_batch import finite, together

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

_PROBED = 2
_FEWEST = 2
_ENTROPY_EPS, _NORM_EPS = 1e-8, 1e-6
_CONSTANT = 1e-12
"""Variance of a block's output, relative to its mean square, below which float32 cannot tell it from a constant."""


@dataclass(frozen=True, slots=True)
class BlockScores:
    """``expressivity`` of each block's output, in order; ``trainability`` of each block but the first, or why not."""

    expressivity: tuple[float, ...]
    trainability: tuple[float, ...] | NotDefined


def block_scores(signals: Signals) -> BlockScores:
    """One forward and backward pass of as many noise images as the first batch has, of its shape.

    Weights are drawn by He's rule, biases 0, scales 1; batch norm normalises over the batch. Raises `NotDefined`: fewer
    than two blocks, an output that is constant or not finite, one value for a batch norm to normalise, a parametrised
    weight.
    """
    images = signals.batches[0][0]
    generator = signals.generator("blocks")
    network = together(signals.copy())
    redraw(network, generator, kaiming)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    outputs: list[Tensor] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        outputs.append(output)
        # What follows may work in place.
        return output.clone()

    for block in _blocks(network, noise[:_PROBED]):
        block.register_forward_hook(keep)
    with torch.enable_grad():
        finite(network(noise.requires_grad_()), len(noise))
    expressivity = tuple(_entropy(place, output.detach()) for place, output in enumerate(outputs, 1))
    try:
        # Backwards: what lies behind a block's output is freed by the block after it.
        steps = list(_steps(outputs, generator))
    except NotDefined as refusal:
        return BlockScores(expressivity, refusal)
    return BlockScores(expressivity, tuple(reversed(steps)))


def _blocks(network: nn.Module, images: Tensor) -> list[nn.Module]:
    calls: dict[nn.Module, list[bool]] = {}

    def record(layer: nn.Module, args: tuple[Any, ...], output: object) -> None:
        maps = isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == len(images)
        calls.setdefault(layer, []).append(maps)

    handles = [layer.register_forward_hook(record) for layer in network.modules()]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    rows = [
        [layer for layer in row if calls.get(layer) == [True] and not isinstance(layer, _DropoutNd | nn.Identity)]
        for row in network.modules()
        if isinstance(row, nn.Sequential | nn.ModuleList)
    ]
    made_of_layers = [[layer for layer in row if any(True for _ in layer.children())] for row in rows]
    for kind in (made_of_layers, rows):
        inner: set[nn.Module] = set()
        longest: list[nn.Module] = []
        # An outer row comes before those within its members.
        for row in kind:
            if len(row) >= _FEWEST and row[0] not in inner:
                inner.update(part for layer in row for part in layer.modules())
                longest = row if len(row) > len(longest) else longest
        if longest:
            return longest
    raise NotDefined("the network has no row of two blocks or more that give feature maps")


def _entropy(place: int, output: Tensor) -> float:
    """Of the shares of the variance along principal components, over images and positions; natural logarithm."""
    rows = _channels_last(output).double()
    centred = rows - rows.mean(dim=0)
    variances = torch.linalg.eigvalsh(centred.T @ centred / len(rows)).clamp(min=0.0)
    total = float(variances.sum())
    if not total > _CONSTANT * float(rows.square().sum(dim=1).mean()):
        raise NotDefined(f"block {place} gives a constant: nothing passes it")
    shares = variances / total
    return -float((shares * (shares + _ENTROPY_EPS).log()).sum())


def _steps(outputs: list[Tensor], generator: torch.Generator) -> Iterator[float]:
    """2 − σ − 1 / (σ + 1e-6) from the last block to the second.

    σ is the largest singular value of E[∂/∂input ⊗ signs]: signs are random, and stand for the output's gradient.
    """
    for place in range(len(outputs) - 1, 0, -1):
        given, made = outputs[place - 1], outputs[place]
        signs = torch.randint(0, 2, made.shape, generator=generator).to(made) * 2 - 1
        (gradient,) = torch.autograd.grad(made, given, signs, allow_unused=True)
        if gradient is None or not bool(gradient.any()):
            raise NotDefined(f"block {place + 1} does not depend on the block before it")
        if gradient.shape == signs.shape and torch.equal(gradient, signs):
            raise NotDefined(f"block {place + 1} hands on its input: there is nothing to train")
        left = _channels_last(_folded(place + 1, gradient, made))
        product = left.T @ _channels_last(signs) / len(left)
        largest = float(torch.linalg.matrix_norm(product.double(), ord=2))
        yield 2 - largest - 1 / (largest + _NORM_EPS)


def _folded(place: int, gradient: Tensor, made: Tensor) -> Tensor:
    """The positions that one position of the output covers, as channels; zeros at the end where sizes do not fit."""
    before, after = gradient.shape[2:], made.shape[2:]
    if gradient.ndim != made.ndim or (made.ndim == 3 and gradient.shape[1] != made.shape[1]):
        raise NotDefined(f"block {place} makes {tuple(made.shape)} of {tuple(gradient.shape)}")
    if made.ndim == 3 or before == after:
        return gradient
    if before[0] < after[0] or before[1] < after[1]:
        raise NotDefined(f"block {place} makes {tuple(after)} positions of {tuple(before)}, which is more")
    factor = max(-(-before[0] // after[0]), -(-before[1] // after[1]))
    margins = (0, after[1] * factor - before[1], 0, after[0] * factor - before[0])
    return F.pixel_unshuffle(F.pad(gradient, margins), factor)


def _channels_last(x: Tensor) -> Tensor:
    """(rows, channels) of maps (n, channels, height, width) or tokens (n, tokens, width)."""
    return x.movedim(1, -1).flatten(0, -2) if x.ndim == 4 else x.flatten(0, -2)
