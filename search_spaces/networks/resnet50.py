"""A plain residual network of Once-for-All's ResNet50 family (Cai et al., ICLR 2020) from explicit settings.

The bottlenecks of He et al. (CVPR 2016) with a stem of 3×3 convolutions and shortcuts that pool before they project
(model D of He et al., CVPR 2019). Parameters have the names that Once-for-All publishes its specialised networks under.
The modules are ordinary ones, none works in place, and nothing here depends on a search space: a network and its state
dict are all that is needed to use it.
"""

from __future__ import annotations

from torch import Tensor, nn

from search_spaces.networks.layers import Device, classifier, conv_layer
from search_spaces.networks.residual_layout import Bottleneck, Conv, Layout


class Network(nn.Module):
    """Images (n, channels, height, width) → logits (n, classes)."""

    def __init__(self, layout: Layout, device: Device = None) -> None:
        super().__init__()
        first, *between, last = (convolution(conv, "relu", device) for conv in layout.stem.convs)
        self.input_stem = nn.Sequential(first, *map(StemBlock, between), last)
        self.max_pooling = nn.MaxPool2d(3, layout.pool_stride, padding=1)
        self.blocks = nn.Sequential(*(Block(block, device) for block in layout.blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier(layout.classifier.inputs, layout.classifier.classes, device)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.max_pooling(self.input_stem(images)))
        return self.classifier(self.pool(features).flatten(1))  # type: ignore[no-any-return]


class StemBlock(nn.Module):
    """A convolution whose input is added to its output."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A bottleneck, ReLU behind the sum with its shortcut."""

    def __init__(self, block: Bottleneck, device: Device = None) -> None:
        super().__init__()
        first, second, third, *projection = block.convs
        self.conv1 = convolution(first, "relu", device)
        self.conv2 = convolution(second, "relu", device)
        self.conv3 = convolution(third, "", device)
        self.pool = shortcut_pool(block.stride)
        self.downsample = convolution(projection[0], "", device) if projection else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        return self.act(y + self.downsample(self.pool(x)))  # type: ignore[no-any-return]


def convolution(conv: Conv, activation: str, device: Device = None) -> nn.Sequential:
    """A convolution, batch norm, and the activation if one is named."""
    return conv_layer(
        conv.inputs, conv.outputs, kernel=conv.kernel, stride=conv.stride, activation=activation, device=device
    )


def shortcut_pool(stride: int) -> nn.Module:
    """What brings the input of a block to the size of its output: a stride of s turns side n into ceil(n / s)."""
    return nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
