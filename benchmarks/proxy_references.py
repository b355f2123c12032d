"""Proxies as the papers' code computes them: one pass of its own for each, image by image, layer by layer.

Written for the comparison, plainly, from the formulas. Each takes a network in training mode, which it leaves with
gradients, and minibatches; `run` gives each a copy. Where the papers' code keeps all gradients of all images on the
host at once, this sums up as it goes, which is kinder to it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import proxy_forward_references as forward
from benchmarks.proxy_setup import Batch

_JITTER = 1e-5


def known(name: str) -> bool:
    """Whether there is a reference of this name."""
    return name in REFERENCES or name in forward.REFERENCES


def run(name: str, network: nn.Module, batches: Sequence[Batch], draws: forward.Draws) -> float:
    """The score by the reference of this name, of a copy of the network; a logarithm where ours is one."""
    network = copy.deepcopy(network).train()
    if name in forward.REFERENCES:
        return forward.REFERENCES[name](network, batches, draws)
    return float(REFERENCES[name](network, batches))


def grad_norm(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Σ over layers of ‖g‖."""
    _backward(network, *batches[0])
    return sum(float(gradient.norm()) for _, gradient in _weights(network))


def plain(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Σ θ·g."""
    _backward(network, *batches[0])
    return sum(float((weight * gradient).sum()) for weight, gradient in _weights(network))


def snip(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Σ |θ·g|."""
    _backward(network, *batches[0])
    return sum(float((weight * gradient).abs().sum()) for weight, gradient in _weights(network))


def grasp(network: nn.Module, batches: Sequence[Batch]) -> float:
    """−Σ θ·Hg: a gradient, then the gradient of its product with itself."""
    x, y = batches[0]
    weights = [layer.weight for layer in _layers(network)]
    first = torch.autograd.grad(F.cross_entropy(network(x), y), weights, allow_unused=True)
    second = torch.autograd.grad(F.cross_entropy(network(x), y), weights, allow_unused=True, create_graph=True)
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None]
    torch.stack([(a * b).sum() for a, b in pairs]).sum().backward()  # type: ignore[no-untyped-call]
    return -sum(float((weight * gradient).sum()) for weight, gradient in _weights(network))


def fisher(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Σ over channels of ½ mean over images of (Σ over positions of a·∂l/∂a)², once per weight of the channel."""
    total = torch.zeros((), device=batches[0][0].device)
    outputs: list[tuple[Any, Tensor]] = []

    def keep(layer: nn.Module, _: object, output: Tensor) -> None:
        output.retain_grad()
        outputs.append((layer, output))

    for layer in _layers(network):
        layer.register_forward_hook(keep)
    _backward(network, *batches[0])
    for layer, output in outputs:
        if output.grad is None:
            continue
        product = output.detach() * output.grad
        if product.ndim > 2:
            product = product.sum(tuple(range(2, product.ndim)))
        channels = product.square().mean(0) / 2
        total += (channels * layer.weight[0].numel()).sum()
    return float(total)


def synflow(network: nn.Module, batches: Sequence[Batch]) -> float:
    """The logarithm of `synflow_raw`."""
    return math.log(synflow_raw(network, batches))


def synflow_raw(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Σ |θ·∂R/∂θ| of absolute parameters in float64, batch norm left out, an input of ones."""
    network = _without_norms(network).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    x = batches[0][0]
    network(torch.ones((1, *x.shape[1:]), dtype=torch.float64, device=x.device)).sum().backward()
    return sum(float((weight * gradient).abs().sum()) for weight, gradient in _weights(network))


def l2_norm(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Σ over layers of ‖θ‖."""
    return float(sum(float(layer.weight.detach().norm()) for layer in _layers(network)))


def params(network: nn.Module, batches: Sequence[Batch]) -> float:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Outputs × inputs per output of convolutions and linear layers, for one image."""
    return sum(work for _, work in layer_macs(network, batches[0][0][:1]))


def gradsign(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Σ |Σᵢ sign gᵢ|: the gradient of one image after the other."""
    sums = _sign_sums(network, *batches[0])
    return sum(float(total.abs().sum()) for total in sums)


def gradsign_mean(network: nn.Module, batches: Sequence[Batch]) -> float:
    """The mean over weights of the same."""
    return float(gradsign(network, batches) / sum(layer.weight.numel() for layer in _layers(network)))


def jacob_cov(network: nn.Module, batches: Sequence[Batch]) -> float:
    """−Σ (ln(v + k) + 1/(v + k)) over the eigenvalues v of the correlations of the images' gradients."""
    values = np.linalg.eigvals(np.corrcoef(_jacobian(network, batches[0][0]))).real
    return float(-np.sum(np.log(values + _JITTER) + 1 / (values + _JITTER)))


def epe_nas(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Σ over classes of |Σ ln(|correlation| + k)|, the correlations of the gradients of a class's images."""
    x, y = batches[0]
    jacobian, labels = _jacobian(network, x), y.cpu().numpy()
    sums = [np.log(np.abs(np.corrcoef(jacobian[labels == label])) + _JITTER).sum() for label in np.unique(labels)]
    return float(np.abs(sums).sum())


def ntk_condition(network: nn.Module, batches: Sequence[Batch]) -> float:
    """λ_max / λ_min of the products of images' gradients of their summed outputs, one image after the other."""
    rows = []
    for image in torch.split(batches[0][0], 1):
        network.zero_grad()
        network(image).sum().backward()
        found = [part.grad for name, part in network.named_parameters() if name.endswith("weight")]
        rows.append(torch.cat([each.flatten() for each in found if each is not None]))
    stacked = torch.stack(rows).double()
    values = torch.linalg.eigvalsh(stacked @ stacked.T)
    return float(values[-1] / values[0])


def zico(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Σ over layers of ln Σ mean |g| / std g over minibatches, where the deviation is not 0."""
    return _zico(network, batches, accumulate=False)


def _zico(network: nn.Module, batches: Sequence[Batch], *, accumulate: bool) -> float:
    found: dict[str, list[NDArray[np.float32]]] = {}
    for x, y in batches:
        if not accumulate:
            network.zero_grad()
        F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.grad is not None:
                found.setdefault(name, []).append(layer.weight.grad.flatten().cpu().numpy().copy())
    score = 0.0
    for gradients in map(np.array, found.values()):
        spread, size = gradients.std(axis=0), np.abs(gradients).mean(axis=0)
        total = float((size[spread > 0] / spread[spread > 0]).sum())
        score += math.log(total) if total else 0.0
    return score


REFERENCES: dict[str, Callable[[nn.Module, Sequence[Batch]], float]] = {
    "epe_nas": epe_nas,
    "fisher": fisher,
    "grad_norm": grad_norm,
    "gradsign": gradsign,
    "gradsign_mean": gradsign_mean,
    "grasp": grasp,
    "jacob_cov": jacob_cov,
    "l2_norm": l2_norm,
    "macs": macs,
    "ntk_condition": ntk_condition,
    "params": params,
    "plain": plain,
    "snip": snip,
    "synflow": synflow,
    "synflow_raw": synflow_raw,
    "zico": zico,
    "zico_accumulated": partial(_zico, accumulate=True),
}


def layer_macs(network: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d | nn.Linear, int]]:
    """The calls of convolutions and linear layers for an image (1, ...), in order, each with its MACs."""
    found: list[tuple[nn.Conv2d | nn.Linear, int]] = []

    def count(layer: Any, _: object, output: Tensor) -> None:
        found.append((layer, output.numel() * layer.weight[0].numel()))

    handles = [layer.register_forward_hook(count) for layer in _layers(network)]
    was_training = network.training
    with torch.no_grad():
        network.eval()(image)
    network.train(was_training)
    for handle in handles:
        handle.remove()
    return found


def _layers(network: nn.Module) -> Iterator[Any]:
    return (layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def _weights(network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights and their gradients, where there are any."""
    for layer in _layers(network):
        if layer.weight.grad is not None:
            yield layer.weight.detach(), layer.weight.grad


def _backward(network: nn.Module, x: Tensor, y: Tensor) -> None:
    network.zero_grad()
    F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]


def _sign_sums(network: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    layers = list(_layers(network))
    sums = [torch.zeros_like(layer.weight) for layer in layers]
    for place in range(len(x)):
        _backward(network, x[place : place + 1], y[place : place + 1])
        for total, layer in zip(sums, layers, strict=True):
            if layer.weight.grad is not None:
                total += layer.weight.grad.sign()
    return sums


def _jacobian(network: nn.Module, x: Tensor) -> NDArray[np.float32]:
    """(images, numbers of an image): the gradient of the summed outputs."""
    x = x.clone().requires_grad_()
    output = network(x)
    output.backward(torch.ones_like(output))
    assert x.grad is not None
    return x.grad.flatten(1).cpu().numpy()


def _without_norms(network: nn.Module) -> nn.Module:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return network
