"""The empirical neural tangent kernel: how alike the gradients are of what the network says of two images.

Θᵢⱼ = ⟨∂sᵢ/∂θ, ∂sⱼ/∂θ⟩, sᵢ the sum of image i's outputs, over the weights of `Conv2d` and `Linear` layers and the scales
of normalisations: what the published code takes, every parameter called weight. Layer by layer, the gradients of all
images are made at once and multiplied in float64; none is kept, but for a weight that several layers share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from predictors.proxies import per_image
from predictors.proxies.kept import keeping
from predictors.proxies.per_image import ImageNorm
from predictors.proxies.products import Weighted, products, weighted_layers
from predictors.proxies.proxy import NotDefined
from predictors.proxies.whole_batch import in_double, is_noise, together

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

Scaled: TypeAlias = ImageNorm | _InstanceNorm | nn.GroupNorm | nn.LayerNorm
"""The normalisations whose scales are weights, once batch norms are replaced."""

_PROBED = 3
"""Images whose kernel is computed twice, the second time one by one in float64."""
_ERROR = 1e-6
"""Relative error of that kernel, made in float64 as it is in float32; it is 1e-12 where all is well."""
_COLUMNS = 1 << 12
"""Weights whose gradients are in float64 at a time: in a processor's cache, for fresh memory would cost more."""
_TOGETHER = 8
"""Images whose gradients are asked for at once, where each needs a backward pass through all."""


def kernel(signals: Signals) -> Tensor:
    """(n, n) float64, of the first batch; batch norm normalises each image by itself, as `per_image.separate` does.

    Images that do not fit into memory together pass in pairs of blocks. Raises `NotDefined` for one image, outputs that
    are not finite, and as `Signals.sign_sums` does for layers that it cannot take apart by image.
    """
    images = signals.batches[0][0]
    _check_count(images)
    probed = images[:_PROBED]
    double = per_image.separate(signals.copy(torch.float64))
    expected, bytes_per_image = in_double(_by_definition, double, probed)
    network = per_image.separate(signals.copy())
    if not float((_gram(double, probed.double()) - expected).norm()) < _ERROR * float(expected.norm()):
        raise NotDefined("the kernel of a few images is not the definition's: a weight is used outside of its layer")
    # The diagonal has the squared size of each image's gradient.
    if is_noise(_gram(network, probed).diagonal().sqrt()[:, None], expected.diagonal().sqrt()[:, None]):
        raise NotDefined("the kernel is rounding noise: the gradients are zero by structure, or overflow")
    chunk = signals.images_at_once(bytes_per_image)
    if chunk >= len(images):
        return _gram(network, images)
    result = torch.zeros((len(images),) * 2, dtype=torch.float64, device=images.device)
    blocks = torch.arange(len(images), device=images.device).tensor_split(-(-len(images) // max(1, chunk // 2)))
    for one, other in combinations(blocks, 2):
        places = torch.cat([one, other])
        result[places[:, None], places] = _gram(network, images[places])
    return result


def kernel_of_batch(signals: Signals) -> Tensor:
    """(n, n) float64, as the published code computes it: batch norm normalises over the batch.

    An image's output then depends on all of them, and its gradient takes a backward pass through the whole batch. The
    gradients of a part of the weights are held at a time. Raises `NotDefined` for one image and outputs that are not
    finite.
    """
    images = signals.batches[0][0]
    _check_count(images)
    network = together(signals.copy())
    weights = _weights(network)
    for weight in weights:
        weight.requires_grad_()
    with torch.enable_grad():
        sums = per_image.output_sums(network(images))
    if not sums.requires_grad:
        raise NotDefined("the output does not depend on the weights")
    result = torch.zeros((len(images),) * 2, dtype=torch.float64, device=images.device)
    basis = torch.eye(len(images), device=images.device)
    numbers = sum(weight.numel() for weight in weights)
    fitting = signals.images_at_once(4 * numbers)
    for part in _parts(weights, numbers * fitting // len(images)):
        rows: list[Tensor] = []
        for cotangents in torch.split(basis, _TOGETHER):
            found = torch.autograd.grad(
                sums, part, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
            none = images.new_zeros((len(cotangents), 0))
            rows.append(torch.cat([none, *(each.flatten(1) for each in found if each is not None)], dim=1))
        _add(result, torch.cat(rows))
    return result


def _gram(network: nn.Module, images: Tensor) -> Tensor:
    result = torch.zeros((len(images),) * 2, dtype=torch.float64, device=images.device)
    missing = Counter(id(layer.weight) for _, layer in weighted_layers(network))
    shared: dict[int, Tensor] = {}

    def visit(name: str, layer: Weighted, inputs: Tensor, delta: Tensor) -> None:
        rows = torch.cat([found.transpose(0, 1).flatten(1) for _, found in products(layer, inputs, delta)])
        # Several layers' gradients of one weight are one.
        key = id(layer.weight)
        missing[key] -= 1
        rows = rows.add_(shared.pop(key)) if key in shared else rows
        if missing[key]:
            shared[key] = rows
        else:
            _add(result, rows)

    handles = [
        layer.register_forward_hook(_scales(per_image.inner(name), result))
        for name, layer in network.named_modules()
        if isinstance(layer, Scaled) and layer.weight is not None
    ]
    try:
        per_image.backward(network, images, None, visit)
    finally:
        for handle in handles:
            handle.remove()
    for rows in shared.values():
        _add(result, rows)
    return result


def _scales(name: str, into: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    """Adds the kernel of a normalisation's scale: per image the output's gradient times what is scaled, summed up."""
    called = False

    def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        nonlocal called
        if called:
            raise NotDefined(f"{name} is called twice: one weight, several gradients")
        called = True
        inputs, version = args[0].detach(), args[0]._version
        if len(inputs) != len(into):
            raise NotDefined(f"{name} sees {len(inputs)} rows for {len(into)} images")
        if not output.requires_grad:
            output = output.requires_grad_().clone()
        elif output._base is not None:
            # Of a view that is overwritten no hook hears again.
            output = output.clone()

        def arrive(delta: Tensor) -> None:
            if inputs._version != version:
                raise NotDefined(f"{name}: its input is changed in place afterwards")
            _add(into, _scale_gradients(layer, inputs, delta))  # type: ignore[arg-type]

        output.register_hook(arrive)  # type: ignore[no-untyped-call]
        return output

    return hook


def _scale_gradients(layer: Scaled, inputs: Tensor, delta: Tensor) -> Tensor:
    """(n, numbers of the scale)."""
    if isinstance(layer, nn.LayerNorm):
        found = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps) * delta
        return found.reshape(len(found), -1, layer.weight.numel()).sum(dim=1)
    groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else layer.weight.numel()
    found = F.group_norm(inputs, groups, eps=layer.eps) * delta
    return found.reshape(*found.shape[:2], -1).sum(dim=2)


def _by_definition(network: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """The kernel, one image after the other, and the bytes that a pass of one image keeps in float32."""
    weights = _weights(network)
    for weight in weights:
        weight.requires_grad_()
    rows = []
    for image in torch.split(images, 1):
        with torch.enable_grad(), keeping(network) as kept:
            total = per_image.output_sums(network(image)).sum()
        if not total.requires_grad:
            raise NotDefined("the output does not depend on the weights")
        found = torch.autograd.grad(total, weights, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros_like(weight).flatten() if gradient is None else gradient.flatten()
                    for weight, gradient in zip(weights, found, strict=True)
                ]
            )
        )
    for weight in weights:
        weight.requires_grad_(False)
    stacked = torch.stack(rows)
    if not bool(stacked.any()):
        raise NotDefined("no weight has a gradient")
    return stacked @ stacked.T, kept.bytes // 2


def _weights(network: nn.Module) -> list[Tensor]:
    layers = [layer for _, layer in weighted_layers(network)]
    if not layers:
        raise NotDefined("the network has no Conv2d or Linear layer")
    norms = [
        layer for layer in network.modules() if isinstance(layer, Scaled | _BatchNorm) and layer.weight is not None
    ]
    weights: dict[int, Tensor] = {}
    for layer in [*layers, *norms]:
        if not isinstance(layer._parameters.get("weight"), nn.Parameter):
            raise NotDefined(f"the weight of a {type(layer).__name__} is parametrised")
        weights[id(layer.weight)] = layer.weight
    return list(weights.values())


def _parts(weights: list[Tensor], numbers: int) -> list[list[Tensor]]:
    """Lists of weights of at most so many numbers, or of one weight."""
    parts: list[list[Tensor]] = [[]]
    room = numbers
    for weight in weights:
        if parts[-1] and weight.numel() > room:
            parts.append([])
            room = numbers
        parts[-1].append(weight)
        room -= weight.numel()
    return parts


def _add(into: Tensor, rows: Tensor) -> None:
    for part in torch.split(rows, _COLUMNS, dim=1):
        wide = part.double()
        into += wide @ wide.T


def _check_count(images: Tensor) -> None:
    if len(images) < 2:
        raise NotDefined("the kernel of one image is a number: it has no condition")
