"""The gradient of each image's loss with respect to one layer's weight, from the layer's input and output gradient.

The arithmetic is that of the summed gradient. What it costs beside is memory traffic, so the shape decides how it is
done; the rules below are measured on CPUs with oneDNN, and depend on the layer alone, so that results repeat.

- *Grouped*: the convolution's own gradient, with each image a group of one wide image. oneDNN's kernels then are those
  of the ordinary gradient, whose speed they have where a group fills its blocks of 8 channels.
- *Dense*: matrix products of the shifted input and the output's gradient, for narrow inputs, for kernels that are
  large beside the map, and for 1 × 1.
- *Correlation*: for depthwise layers, the input channel correlated with the output's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from predictors.proxies.proxy import NotDefined

Weighted: TypeAlias = nn.Conv2d | nn.Linear
"""The layers whose weights enter the sums of published proxies."""

_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 24}
"""In the gradients, and shifted inputs, of one layer at a time: what a CPU's caches hold, what keeps a GPU busy."""
_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
_GROUPED_BLOCK, _GROUPED_WEIGHTS = 8, 1 << 15
"""Channels per group are multiples of the first, and weights at most the second, where grouped is fastest."""


def weighted_layers(network: nn.Module) -> Iterator[tuple[str, Weighted]]:
    """The `Conv2d` and `Linear` layers with their names."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield name, layer


def unique_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of `Conv2d` and `Linear` layers, each once, made to require grad; by the name of a layer.

    Raises `NotDefined` if there are none, and for weights that are computed from others.
    """
    weights: dict[int, tuple[str, Tensor]] = {}
    for name, layer in weighted_layers(network):
        if "weight" not in layer._parameters:
            raise NotDefined(f"{name}: its weight is parametrised")
        layer.weight.requires_grad_()
        weights.setdefault(id(layer.weight), (name, layer.weight))
    if not weights:
        raise NotDefined("the network has no Conv2d or Linear layer")
    return dict(weights.values())


def products(layer: Weighted, inputs: Tensor, delta: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(place, gradients (parts, k, m)) of k images from ``place`` on.

    ``inputs`` and ``delta``, the gradient of the summed loss with respect to the output, have one row per image.
    parts · m is the weight's size, in an order of the layer's own (a transposition would cost more than the product);
    `as_weight` puts (parts, m) numbers into the weight's order. The gradients may be overwritten.
    """
    product = _product(layer, inputs)
    each = layer.weight.numel()
    if isinstance(layer, nn.Linear):
        inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        delta = delta.reshape(len(delta), -1, delta.shape[-1])
    elif product is _dense:
        each += layer.kernel_size[1] * inputs[0].numel()
    step = max(1, _NUMBERS.get(inputs.device.type, _NUMBERS["cuda"]) // each)
    for start in range(0, len(inputs), step):
        yield start, product(layer, inputs[start : start + step], delta[start : start + step])


def sign_sum(layer: Weighted, inputs: Tensor, delta: Tensor) -> Tensor:
    """Σ over the images of the signs of their gradients, (parts, m) as `products` orders them."""
    if _has_one_position(layer, inputs, delta):
        # A product of two numbers has the product of their signs: no gradient is needed.
        left, right = delta.flatten(1).sign(), inputs.flatten(1).sign()
        signs = left.T @ right if isinstance(layer, nn.Linear) else right.T @ left
        return signs.flatten()[None]
    total: Tensor | None = None
    for _, gradients in products(layer, inputs, delta):
        signs = gradients.sign_().sum(dim=1)
        total = signs if total is None else total.add_(signs)
    assert total is not None  # noqa: S101 - for the type checker: there is at least one image
    return total


def as_weight(layer: Weighted, numbers: Tensor) -> Tensor:
    """(parts, m) in the order that `products` gives on this device and in this dtype, as (weight.shape)."""
    if isinstance(layer, nn.Linear) or _product(layer, numbers) is not _dense:
        return numbers.view(layer.weight.shape)
    outside, inside, rows, columns = layer.weight.shape
    parts = numbers.view(rows, layer.groups, inside, columns, outside // layer.groups)
    return parts.permute(1, 4, 2, 0, 3).reshape(layer.weight.shape)


def _has_one_position(layer: Weighted, inputs: Tensor, delta: Tensor) -> bool:
    """Whether each weight meets one product per image."""
    if isinstance(layer, nn.Linear):
        return delta.ndim == 2
    one = layer.kernel_size == inputs.shape[2:] == delta.shape[2:] == (1, 1)
    return one and _product(layer, inputs) is _dense and layer.groups == 1


def _product(layer: Weighted, like: Tensor) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """How the gradients are made on the device, and in the dtype, of a tensor."""
    if isinstance(layer, nn.Linear):
        return _linear
    outside, inside, rows, columns = layer.weight.shape
    outside //= layer.groups
    by_convolution = like.device.type == "cpu" and like.dtype == torch.float32 and _ONEDNN
    if inside == 1:
        return _grouped if by_convolution and (outside, rows, columns) == (1, 3, 3) else _correlation
    blocks = inside % _GROUPED_BLOCK == outside % _GROUPED_BLOCK == 0
    few = rows * columns > 1 and layer.weight.numel() <= _GROUPED_WEIGHTS
    return _grouped if by_convolution and blocks and few else _dense


def _linear(layer: nn.Linear, x: Tensor, delta: Tensor) -> Tensor:
    return torch.bmm(delta.transpose(1, 2), x).flatten(1)[None]


def _grouped(layer: nn.Conv2d, x: Tensor, delta: Tensor) -> Tensor:
    count, margins = len(x), _margins(layer)
    padding = [margins[2], margins[0]]
    if layer.padding_mode != "zeros" or margins[2:] != padding[:1] * 2 or margins[:2] != padding[1:] * 2:
        x, padding = _pad(layer, x), [0, 0]
    outside, *inside = layer.weight.shape
    found: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        x.reshape(1, -1, *x.shape[2:]),
        [count * outside, *inside],
        delta.reshape(1, -1, *delta.shape[2:]),
        layer.stride,
        padding,
        layer.dilation,
        count * layer.groups,
    )
    return found.view(1, count, -1)


def _correlation(layer: nn.Conv2d, x: Tensor, delta: Tensor) -> Tensor:
    """A grouped convolution in which stride and dilation change places.

    Sizes that the stride does not divide leave more than the kernel.
    """
    x = _pad(layer, x)
    count, channels, height, width = x.shape
    found = F.conv2d(
        x.reshape(1, count * channels, height, width),
        delta.reshape(-1, 1, *delta.shape[2:]),
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
    x = _pad(layer, x)
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
