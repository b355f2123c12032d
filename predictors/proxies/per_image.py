"""The gradient of each image's loss with respect to each weight, for a whole batch in one forward and backward pass.

Nothing but batch norm mixes images. Fed one image in training mode, batch norm normalises each channel of that image
over its positions, which is instance norm with the same affine: so `separate` puts that in its place, and a batched
pass keeps images apart exactly. `gradients` then takes each layer's input and output gradient, and forms the product
per image that autograd would have summed: the same arithmetic, since the pass itself computes no weight gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from predictors.proxies.proxy import NotDefined

_BUFFER_NUMBERS = 1 << 24
"""Numbers in the unfolded inputs and the gradients of one layer at a time."""


class ImageNorm(nn.Module):
    """What a batch norm in training mode does to each image when images come one at a time."""

    def __init__(self, norm: _BatchNorm, name: str) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.name = norm.weight, norm.bias, norm.eps, name

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, ...) → the same shape. Raises `NotDefined` if there is one value per channel."""
        _check_positions(self.name, x)
        return F.instance_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def separate(network: nn.Module) -> nn.Module:
    """The network, which is changed: in evaluation mode, `ImageNorm` for batch norm, no parameter requires grad."""
    network = nn.Sequential(network).eval().requires_grad_(False)
    norms = {layer: ImageNorm(layer, _inner(name)) for name, layer in network.named_modules() if _is_norm(layer)}
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in norms:
                setattr(parent, name, norms[child])
    return network


def gradients(
    network: nn.Module, images: Tensor, labels: Tensor, first: int, visit: Callable[[str, int, Tensor], None]
) -> None:
    """One pass; ``visit(name, place, gradients (k, *weight.shape))`` for k images from ``place`` on, per layer.

    ``network`` comes from `separate`, ``first`` is the place of the first image. Gradients are those of each image's
    own cross-entropy; the visitor may overwrite them. Layers that no gradient reaches are not visited.
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
            version = inputs._version
            inputs = inputs.detach()

            def arrive(delta: Tensor) -> None:
                if inputs._version != version:
                    raise NotDefined(f"{name}: its input is changed in place afterwards")
                for rows, product in _products(layer, inputs, delta):
                    visit(name, first + rows, product)

            output.register_hook(arrive)  # type: ignore[no-untyped-call]
            return output

        return hook

    for name, layer in weighted_layers(network):
        handles.append(layer.register_forward_hook(watch(_inner(name))))
    try:
        with torch.enable_grad():
            loss = _loss(network(images), labels)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()


def reference_signs(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Σᵢ sign gᵢ by the definition: a float64 network, batch norm in training mode, one image after the other.

    Changes the network. Float32 by layer name, (weight.shape). Raises `NotDefined` as `Signals.sign_sums` does.
    """
    network.eval().requires_grad_(False)
    layers = dict(weighted_layers(network))
    if not layers:
        raise NotDefined("the network has no Conv2d or Linear layer")
    for name, layer in layers.items():
        if "weight" not in layer._parameters:
            raise NotDefined(f"{name}: its weight is parametrised")
    for name, layer in network.named_modules():
        if _is_norm(layer):
            layer.train()
            layer.register_forward_pre_hook(lambda _, args, name=name: _check_positions(name, args[0]))
    weights = [layer.weight.requires_grad_() for layer in layers.values()]
    if len({id(weight) for weight in weights}) < len(weights):
        raise NotDefined("two layers share a weight")
    sums = {name: torch.zeros_like(layer.weight, dtype=torch.float32) for name, layer in layers.items()}
    alive = False
    for place in range(len(images)):
        image, label = images[place : place + 1].requires_grad_(), labels[place : place + 1]
        with torch.enable_grad():
            loss = _loss(_in_double(network, image), label)
        if not loss.requires_grad:
            continue
        found = torch.autograd.grad(loss, [image, *weights], allow_unused=True)
        alive |= found[0] is not None and bool(found[0].any())
        for name, gradient in zip(sums, found[1:], strict=True):
            if gradient is not None:
                sums[name] += gradient.sign()
    if not alive:
        raise NotDefined("the output does not depend on the image")
    return sums


def weighted_layers(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """The layers whose weights enter the sums of published proxies, with their names."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield name, layer


def _products(layer: nn.Module, inputs: Tensor, delta: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(place, gradients (k, *weight.shape)) of k images from ``place`` on."""
    if isinstance(layer, nn.Linear):
        left = delta.reshape(len(delta), -1, delta.shape[-1])
        right = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        step = max(1, _BUFFER_NUMBERS // layer.weight.numel())
        for start in range(0, len(inputs), step):
            rows = slice(start, start + step)
            yield start, torch.bmm(left[rows].transpose(1, 2), right[rows])
        return
    assert isinstance(layer, nn.Conv2d)  # noqa: S101 - for the type checker: weighted_layers yields nothing else
    groups, positions = layer.groups, delta[0, 0].numel()
    width = layer.weight[0].numel()
    step = max(1, _BUFFER_NUMBERS // (layer.weight.numel() + groups * width * positions))
    for start in range(0, len(inputs), step):
        rows = slice(start, start + step)
        columns = _unfold(layer, inputs[rows]).reshape(-1, width, positions)
        slopes = delta[rows].reshape(len(columns), -1, positions)
        yield start, torch.bmm(slopes, columns.transpose(1, 2)).reshape(-1, *layer.weight.shape)


def _unfold(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """(k, c, h, w) → (k, c · kernel, positions): what the kernel sees at each position of the output."""
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    padding = layer.padding
    if isinstance(padding, str) or layer.padding_mode != "zeros":
        x = F.pad(x, _margins(layer), mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
        padding = (0, 0)
    if kernel == (1, 1) and padding == (0, 0):
        return x[:, :, :: stride[0], :: stride[1]].flatten(2)
    return F.unfold(x, kernel, dilation, padding, stride)


def _margins(layer: nn.Conv2d) -> list[int]:
    """Left, right, top, bottom; of ``same`` the odd one goes right and below."""
    margins: list[int] = []
    for axis in (1, 0):
        if isinstance(layer.padding, str):
            both = layer.dilation[axis] * (layer.kernel_size[axis] - 1) if layer.padding == "same" else 0
            margins += [both // 2, both - both // 2]
        else:
            margins += [layer.padding[axis]] * 2
    return margins


def _loss(logits: object, labels: Tensor) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(labels):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise NotDefined(f"the output must be ({len(labels)}, classes), is {shape}")
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"a label is {int(labels.max())}, the network has {logits.shape[1]} classes")
    return F.cross_entropy(logits, labels, reduction="sum")


def _in_double(network: nn.Module, image: Tensor) -> object:
    try:
        return network(image)
    except RuntimeError as error:
        raise NotDefined(f"the network cannot be checked in float64: {error}") from error


def _check_positions(name: str, x: Tensor) -> None:
    if x[0, 0].numel() < 2:
        raise NotDefined(f"{name}: batch norm has one value per channel of an image, and no variance of it")


def _is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm)


def _inner(name: str) -> str:
    """The name in the network that `separate` wrapped."""
    return name.removeprefix("0").removeprefix(".")
