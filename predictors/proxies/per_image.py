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
from search_spaces.networks.memory import ran_out

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
    """One pass; ``visit(name, place, gradients)`` per layer for k images from ``place`` on.

    ``network`` comes from `separate`, ``first`` is the place of the first image. ``gradients[:, i]`` of (parts, k, m)
    holds the gradient of the cross-entropy of image ``place + i``, parts · m being the weight's size, in an order of
    the layer's own (a transposition would cost more than the product); `as_weight` puts (parts, m) numbers into the
    weight's order. The visitor may overwrite them. Layers that no gradient reaches are not visited.
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


def as_weight(layer: nn.Conv2d | nn.Linear, numbers: Tensor) -> Tensor:
    """(parts, m) in the order that `gradients` gives, as (weight.shape)."""
    if isinstance(layer, nn.Conv2d) and layer.in_channels != layer.groups:
        outside, inside, rows, columns = layer.weight.shape
        parts = numbers.view(rows, layer.groups, inside, columns, outside // layer.groups)
        return parts.permute(1, 4, 2, 0, 3).reshape(layer.weight.shape)
    return numbers.view(layer.weight.shape)


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
    """(place, gradients (parts, k, m)) of k images from ``place`` on."""
    if isinstance(layer, nn.Linear):
        left = delta.reshape(len(delta), -1, delta.shape[-1])
        right = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        step = max(1, _BUFFER_NUMBERS // layer.weight.numel())
        for start in range(0, len(inputs), step):
            rows = slice(start, start + step)
            yield start, torch.bmm(left[rows].transpose(1, 2), right[rows]).flatten(1)[None]
        return
    assert isinstance(layer, nn.Conv2d)  # noqa: S101 - for the type checker: weighted_layers yields nothing else
    product = _depthwise if layer.in_channels == layer.groups else _dense
    step = max(1, _BUFFER_NUMBERS // (layer.weight.numel() + layer.kernel_size[1] * inputs[0].numel()))
    for start in range(0, len(inputs), step):
        rows = slice(start, start + step)
        yield start, product(layer, _pad(layer, inputs[rows]), delta[rows])


def _depthwise(layer: nn.Conv2d, x: Tensor, delta: Tensor) -> Tensor:
    """One input channel per group: each gradient is that channel correlated with the output's, a grouped convolution.

    In it stride and dilation change places, and sizes that the stride does not divide leave more than the kernel.
    """
    count, channels, height, width = x.shape
    slopes = delta.reshape(-1, 1, *delta.shape[2:])
    found = F.conv2d(
        x.reshape(1, count * channels, height, width),
        slopes,
        stride=layer.dilation,
        dilation=layer.stride,
        groups=count * channels,
    )
    rows, columns = layer.kernel_size
    return found[0, :, :rows, :columns].reshape(1, count, -1)


def _dense(layer: nn.Conv2d, x: Tensor, delta: Tensor) -> Tensor:
    """The product of what the kernel sees and the output's gradient, a matrix product per image and kernel row.

    Only columns are shifted in memory: a shift by rows is another offset into the same numbers, so a kernel of k × k
    costs k copies of the input and not k², which is what the time goes into.
    """
    count, groups, (height, width) = len(x), layer.groups, delta.shape[2:]
    (rows, columns), (down, right), (row_step, column_step) = layer.kernel_size, layer.stride, layer.dilation
    inside = layer.in_channels // groups
    reach = right * (width - 1) + 1
    shifted = [x[..., j * column_step : j * column_step + reach : right] for j in range(columns)]
    stacked = torch.stack(shifted, dim=2) if columns > 1 else shifted[0][:, :, None]
    stacked = stacked.reshape(count * groups, inside * columns, x.shape[2], width)
    slopes = delta.reshape(count * groups, -1, height * width).transpose(1, 2)
    reach = down * (height - 1) + 1
    found = x.new_empty((rows, count * groups, inside * columns, slopes.shape[2]))
    for i in range(rows):
        seen = stacked[:, :, i * row_step : i * row_step + reach : down].flatten(2)
        torch.bmm(seen, slopes, out=found[i])
    return found.view(rows, count, -1)


def _pad(layer: nn.Conv2d, x: Tensor) -> Tensor:
    margins = _margins(layer)
    if not any(margins):
        return x
    return F.pad(x, margins, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


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
    loss = F.cross_entropy(logits, labels, reduction="sum")
    if not bool(torch.isfinite(loss)):
        raise NotDefined("the loss is not finite: a weight or an activation overflowed")
    return loss


def _in_double(network: nn.Module, image: Tensor) -> object:
    try:
        return network(image)
    except RuntimeError as error:
        if ran_out(error):
            raise
        raise NotDefined(f"the network cannot be checked in float64: {error}") from error


def _check_positions(name: str, x: Tensor) -> None:
    if x[0, 0].numel() < 2:
        raise NotDefined(f"{name}: batch norm has one value per channel of an image, and no variance of it")


def _is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm)


def _inner(name: str) -> str:
    """The name in the network that `separate` wrapped."""
    return name.removeprefix("0").removeprefix(".")
