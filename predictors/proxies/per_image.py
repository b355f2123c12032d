"""Passes in which each image has a loss and a gradient of its own, for a whole batch at once.

Nothing but batch norm mixes images. Fed one image in training mode, batch norm normalises each channel of that image
over its positions, which is instance norm with the same affine, and group norm with a group per channel: so `separate`
puts that in its place, and a batched pass keeps images apart exactly. `backward` then hands out each layer's input and
output gradient, of which `predictors.proxies.products` makes the product per image that autograd would have summed: the
same arithmetic, since the pass itself computes no weight gradients. `probe` is the same network in float64, through
autograd, for a few images: what holds the batched pass to the definition, and measures what memory an image takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.utils.hooks import RemovableHandle

from predictors.proxies.kept import keeping
from predictors.proxies.products import Weighted, weighted_layers
from predictors.proxies.proxy import NotDefined


class ImageNorm(nn.Module):
    """What a batch norm in training mode does to each image when images come one at a time."""

    def __init__(self, norm: _BatchNorm, name: str) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.name = norm.weight, norm.bias, norm.eps, name
        self.channels = norm.num_features

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, ...) → the same shape. Raises `NotDefined` if there is one value per channel."""
        if x[0, 0].numel() < 2:
            raise NotDefined(f"{self.name}: batch norm has one value per channel of an image, and no variance of it")
        # A group per channel: on a CPU several times as fast as `instance_norm`, which goes through batch norm.
        return F.group_norm(x, self.channels, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a few images said in float64.

    Attributes:
        gradients: of the summed loss, by layer name, (weight.shape); 0 where none arrives.
        bytes_per_image: what the pass keeps for its backward pass in float32.
    """

    gradients: dict[str, Tensor]
    bytes_per_image: int


def separate(network: nn.Module) -> nn.Module:
    """The network, which is changed: in evaluation mode, `ImageNorm` for batch norm, no parameter requires grad.

    Raises `NotDefined` for a batch norm whose class computes something of its own.
    """
    network = nn.Sequential(network).eval().requires_grad_(False)
    norms = {
        layer: _image_norm(layer, inner(name))
        for name, layer in network.named_modules()
        if isinstance(layer, _BatchNorm)
    }
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in norms:
                setattr(parent, name, norms[child])
    return network


def backward(
    network: nn.Module, images: Tensor, labels: Tensor | None, visit: Callable[[str, Weighted, Tensor, Tensor], None]
) -> None:
    """One pass; ``visit(name, layer, inputs, delta)`` for each layer that a gradient reaches.

    ``network`` comes from `separate`. ``inputs`` and ``delta`` have one row per image: the layer's input, and the
    gradient of the summed cross-entropy with respect to its output; without labels, of the sum of all outputs. Raises
    `NotDefined` as `Signals.sign_sums` does.
    """
    handles: list[RemovableHandle] = []
    called: set[str] = set()

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            if name in called:
                raise NotDefined(f"{name} is called twice: one weight, several gradients")
            called.add(name)
            inputs = args[0]
            if inputs.shape[0] != len(images):
                raise NotDefined(f"{name} sees {inputs.shape[0]} rows for {len(images)} images")
            if not output.requires_grad:
                # Where gradients start. Not the leaf itself: a following activation may work in place.
                output = output.requires_grad_().clone()
            elif output._base is not None:
                # A view, as of a linear layer on positions: once it is overwritten no hook of it is called.
                output = output.clone()
            version = inputs._version
            inputs = inputs.detach()

            def arrive(delta: Tensor) -> None:
                if inputs._version != version:
                    raise NotDefined(f"{name}: its input is changed in place afterwards")
                visit(name, layer, inputs, delta)  # type: ignore[arg-type]

            output.register_hook(arrive)  # type: ignore[no-untyped-call]
            return output

        return hook

    for name, layer in weighted_layers(network):
        handles.append(layer.register_forward_hook(watch(inner(name))))
    try:
        with torch.enable_grad():
            output = network(images)
            loss = (output_sums(output) if labels is None else image_losses(output, labels)).sum()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()


def probe(network: nn.Module, images: Tensor, labels: Tensor) -> Probe:
    """Gradients by autograd, of a network of float64 from `separate`; raises `NotDefined` as `Signals.sign_sums` does.

    A layer that mixes images, or does not what its class does, has other gradients here than in a larger batch by
    `backward`.
    """
    layers = dict(weighted_layers(network))
    if not layers:
        raise NotDefined("the network has no Conv2d or Linear layer")
    for name, layer in layers.items():
        if "weight" not in layer._parameters:
            raise NotDefined(f"{inner(name)}: its weight is parametrised")
    weights = [layer.weight.requires_grad_() for layer in layers.values()]
    if len({id(weight) for weight in weights}) < len(weights):
        raise NotDefined("two layers share a weight")
    images = images.requires_grad_()
    with torch.enable_grad(), keeping(network) as kept:
        loss = image_losses(network(images), labels).sum()
    found: tuple[Tensor | None, ...] = (None,) * (1 + len(weights))
    if loss.requires_grad:
        found = torch.autograd.grad(loss, [images, *weights], allow_unused=True)
    if found[0] is None or not bool(found[0].any()):
        raise NotDefined("the output does not depend on the image")
    gradients = {
        inner(name): torch.zeros_like(layer.weight, requires_grad=False) if gradient is None else gradient
        for (name, layer), gradient in zip(layers.items(), found[1:], strict=True)
    }
    return Probe(gradients, kept.bytes // (2 * len(images)))


def image_losses(logits: object, labels: Tensor) -> Tensor:
    """The cross-entropy of each image, (n,).

    Raises `NotDefined` for outputs that are no class scores and losses that are not finite, ValueError for labels
    beyond the classes.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(labels):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise NotDefined(f"the output must be ({len(labels)}, classes), is {shape}")
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"a label is {int(labels.max())}, the network has {logits.shape[1]} classes")
    losses = F.cross_entropy(logits, labels, reduction="none")
    if not bool(torch.isfinite(losses).all()):
        raise NotDefined("the loss is not finite: a weight or an activation overflowed")
    return losses


def output_sums(output: object) -> Tensor:
    """The sum of each image's outputs, (n,). Raises `NotDefined` for outputs that are no finite tensor."""
    if not isinstance(output, Tensor) or not output.ndim:
        raise NotDefined(f"the output must be a tensor with a row per image, is {type(output).__name__}")
    if not bool(torch.isfinite(output).all()):
        raise NotDefined("the output is not finite: a weight or an activation overflowed")
    return output.flatten(1).sum(dim=1) if output.ndim > 1 else output


def inner(name: str) -> str:
    """The name in the network that `separate` wrapped."""
    return name.removeprefix("0").removeprefix(".")


def _image_norm(layer: _BatchNorm, name: str) -> ImageNorm:
    if type(layer).forward not in (_BatchNorm.forward, SyncBatchNorm.forward):
        raise NotDefined(f"{name}: {type(layer).__name__} is a batch norm that computes something of its own")
    return ImageNorm(layer, name)
