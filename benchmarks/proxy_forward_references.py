"""References of proxies of activations, and of those that draw their own images or weights.

As `benchmarks.proxy_references`; networks are those of NAS-Bench-201, whose blocks are its cells and whose feature maps
are what it pools. Those that draw do so from the generators that ours draw from, in the same order, so that scores can
be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.proxy_setup import Batch

Draws: TypeAlias = Callable[[str], torch.Generator]
"""A generator for a purpose, as `predictors.proxies.signals.Signals.generator`."""

_GAMMA = 0.01
_POINTS = 64
_SIGMA = 10.0


def naswot(network: nn.Module, batches: Sequence[Batch], draws: Draws) -> float:
    """ln |det K|, K the number of ReLUs that two images switch alike."""
    x = batches[0][0]
    kernel = np.zeros((len(x), len(x)))

    def compare(signs: Tensor) -> None:
        on = signs.float()
        off = 1 - on
        kernel[:] += (on @ on.T).cpu().numpy() + (off @ off.T).cpu().numpy()

    _watch(network, compare)
    with torch.no_grad():
        network(x)
    return float(np.linalg.slogdet(kernel)[1])


def swap(network: nn.Module, batches: Sequence[Batch], draws: Draws) -> float:
    """The number of different columns of signs over all units."""
    signs: list[Tensor] = []
    _watch(network, signs.append)
    with torch.no_grad():
        network(batches[0][0])
    return float(len(torch.unique(torch.cat(signs, dim=1).T, dim=0)))


def linear_regions(network: nn.Module, batches: Sequence[Batch], draws: Draws) -> float:
    """1 + the units that switch between neighbours on an arc of 64 points between two images of noise."""
    x = batches[0][0]
    ends = torch.randn((2, *x.shape[1:]), generator=draws("arc")).to(x.device)
    angles = torch.linspace(0, math.pi / 2, _POINTS, device=x.device).view(-1, 1, 1, 1)
    signs: list[Tensor] = []
    _watch(network, signs.append)
    with torch.no_grad():
        network(angles.cos() * ends[0] + angles.sin() * ends[1])
    return 1.0 + sum(int((each[1:] != each[:-1]).sum()) for each in signs)


def dse(network: nn.Module, batches: Sequence[Batch], draws: Draws) -> float:
    """The entropy of the diffusion's spectrum, of what the classifier sees."""
    seen: list[Tensor] = []
    classifier = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(batches[0][0])
    vectors = seen[0].double().cpu().numpy()
    squares = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=-1)
    kernel = np.exp(-squares / (2 * _SIGMA**2))
    roots = 1 / np.sqrt(kernel.sum(axis=1))
    values = np.abs(np.linalg.eigvalsh(roots[:, None] * kernel * roots)[:-1])
    shares = values / values.sum()
    return float(-(shares * np.log2(shares)).sum())


def zen(network: nn.Module, batches: Sequence[Batch], draws: Draws) -> float:
    """ln E|f(x) − f(x + 0.01 ε)| + Σ ln √(mean variance), weights and images of standard normal numbers."""
    x = batches[0][0]
    generator = draws("zen")
    _redraw(network, generator, lambda weight: 1.0)
    noise = torch.randn((2, *x.shape), generator=generator).to(x.device)
    maps: list[Tensor] = []
    scale = 0.0

    def divided(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal scale
        if not maps:
            scale += math.log(float(inputs[0].var(dim=(0, 2, 3), unbiased=False).mean())) / 2

    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(divided)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            layer.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    with torch.no_grad():
        network(noise[0])
        network(noise[0] + _GAMMA * noise[1])
    return math.log(float((maps[0] - maps[1]).abs().sum(dim=(1, 2, 3)).mean())) + scale


def az_expressivity(network: nn.Module, batches: Sequence[Batch], draws: Draws) -> float:
    """Σ over cells of the entropy of their outputs' principal components."""
    return sum(_entropies(network, batches, draws))


def az_progressivity(network: nn.Module, batches: Sequence[Batch], draws: Draws) -> float:
    """The least growth of that entropy from one cell to the next."""
    return min(after - before for before, after in pairwise(_entropies(network, batches, draws)))


def az_trainability(network: nn.Module, batches: Sequence[Batch], draws: Draws) -> float:
    """The mean over cells of 2 − σ − 1/σ, σ the spectral norm of the mean Jacobian."""
    generator = draws("blocks")
    outputs = _blocks(network, batches, generator)
    scores = []
    for place in range(len(outputs) - 1, 0, -1):
        given, made = outputs[place - 1], outputs[place]
        signs = (torch.randint(0, 2, made.shape, generator=generator) * 2 - 1).to(made)
        (found,) = torch.autograd.grad(made, given, signs, retain_graph=True)
        found = F.pixel_unshuffle(found, given.shape[2] // made.shape[2])
        left, right = (each.transpose(0, 1).flatten(1) for each in (found, signs))
        largest = float(torch.linalg.matrix_norm(left @ right.T / left.shape[1], ord=2))
        scores.append(2 - largest - 1 / (largest + 1e-6))
    return sum(scores) / len(scores)


REFERENCES: dict[str, Callable[[nn.Module, Sequence[Batch], Draws], float]] = {
    "az_expressivity": az_expressivity,
    "az_progressivity": az_progressivity,
    "az_trainability": az_trainability,
    "dse": dse,
    "linear_regions": linear_regions,
    "naswot": naswot,
    "swap": swap,
    "zen": zen,
}


def _watch(network: nn.Module, see: Callable[[Tensor], None]) -> None:
    """``see`` gets (images, units) whether each ReLU is on."""
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_pre_hook(lambda _, inputs: see(inputs[0].flatten(1) > 0))


def _redraw(network: nn.Module, generator: torch.Generator, spread: Callable[[Tensor], float]) -> None:
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * spread(layer.weight))
                if layer.bias is not None:
                    layer.bias.zero_()


def _blocks(network: Any, batches: Sequence[Batch], generator: torch.Generator) -> list[Tensor]:
    """The cells' outputs for noise, weights drawn by He's rule."""
    _redraw(network, generator, lambda weight: (2 / weight[0].numel()) ** 0.5)
    x = torch.randn(batches[0][0].shape, generator=generator).to(batches[0][0].device)
    outputs: list[Tensor] = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _, __, output: outputs.append(output))
    network(x)
    return outputs


def _entropies(network: nn.Module, batches: Sequence[Batch], draws: Draws) -> list[float]:
    entropies = []
    with torch.no_grad():
        for output in _blocks(network, batches, draws("blocks")):
            rows = output.transpose(0, 1).flatten(1).T
            rows = rows - rows.mean(dim=0)
            values = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).clamp(min=0)
            shares = values / values.sum()
            entropies.append(-float((shares * (shares + 1e-8).log()).sum()))
    return entropies
