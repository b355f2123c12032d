"""The Once-for-All ResNet50 super-network (Cai et al., ICLR 2020).

Its state dict has the published names: a released checkpoint loads with `load_state_dict`, also one of a plain network
of the largest size.
"""

from __future__ import annotations

from torch import Tensor, nn

from search_spaces.networks.layers import Device
from search_spaces.networks.residual_layout import Bottleneck, Conv, Stem
from search_spaces.networks.resnet50 import Network, shortcut_pool
from search_spaces.resnet50 import ResNet50
from search_spaces.space import Genes
from search_spaces.supernets.elastic import (
    ConvLayer,
    ElasticLinear,
    Weights,
    accept_published_names,
    assembled,
    prefixed,
)
from search_spaces.supernets.supernet import Supernet


class ResNet50Supernet(Supernet):
    """All layers at their widest; a row uses the first channels of each, and the first blocks of each stage."""

    def __init__(self, space: ResNet50, device: Device = None) -> None:
        super().__init__()
        self.space: ResNet50 = space
        full = space.full
        self.input_stem = ElasticStem(full.stem, device)
        self.max_pooling = nn.MaxPool2d(3, full.pool_stride, padding=1)
        self.blocks = nn.ModuleList([ElasticBlock(block, device) for block in full.blocks])
        self.classifier = ElasticClassifier(full.classifier.inputs, full.classifier.classes, device)
        self.register_load_state_dict_pre_hook(accept_published_names)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor, row: Genes) -> Tensor:
        layout = self.space.layout(row)
        x = self.max_pooling(self.input_stem(images, layout.stem))
        for block in layout.blocks:
            x = self.blocks[block.place](x, block)
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]

    def extract(self, row: Genes) -> Network:
        layout = self.space.layout(row)
        weights = prefixed("input_stem.", self.input_stem.weights(layout.stem))
        for index, block in enumerate(layout.blocks):
            part = self.blocks[block.place]
            assert isinstance(part, ElasticBlock)  # noqa: S101 - for the type checker
            weights |= prefixed(f"blocks.{index}.", part.weights(block))
        weights |= prefixed("classifier.linear.", self.classifier.linear.weights(layout.classifier.inputs))
        return assembled(Network(layout, device="meta"), weights)


class ElasticStem(nn.ModuleList):
    """Three convolutions of which a sub-network may skip the one in the middle."""

    def __init__(self, stem: Stem, device: Device = None) -> None:
        first, between, last = (elastic(conv, "relu", device) for conv in stem.convs)
        super().__init__([first, ElasticStemBlock(between), last])
        self.parts = first, between, last

    def weights(self, stem: Stem) -> Weights:
        """Under the names of `search_spaces.networks.resnet50.Network.input_stem`."""
        first, between, last = self.parts
        # Without the convolution in the middle, the last one takes its number.
        parts = {"0.": first, "1.conv.": between, "2.": last} if stem.residual else {"0.": first, "1.": last}
        weights: Weights = {}
        for (name, part), conv in zip(parts.items(), stem.convs, strict=True):
            weights |= prefixed(name, part.weights(conv.inputs, conv.outputs))
        return weights

    def forward(self, images: Tensor, stem: Stem) -> Tensor:
        first, between, last = self.parts
        x = first(images, stem.middle)
        if stem.residual:
            x = x + between(x, stem.middle)
        return last(x, stem.outputs)  # type: ignore[no-any-return]


class ElasticStemBlock(nn.Module):
    """A convolution whose input is added to its output, by `ElasticStem`."""

    def __init__(self, conv: ConvLayer) -> None:
        super().__init__()
        self.conv = conv


class ElasticClassifier(nn.Module):
    """A linear layer, ``linear``."""

    def __init__(self, inputs: int, classes: int, device: Device = None) -> None:
        super().__init__()
        self.linear = ElasticLinear(inputs, classes, device)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


class ElasticBlock(nn.Module):
    """A bottleneck of which each sub-network uses a part."""

    def __init__(self, block: Bottleneck, device: Device = None) -> None:
        super().__init__()
        first, second, third, *projection = block.convs
        self.conv1 = elastic(first, "relu", device)
        self.conv2 = elastic(second, "relu", device)
        self.conv3 = elastic(third, "", device)
        self.pool = shortcut_pool(block.stride)
        self.downsample = elastic(projection[0], "", device) if projection else None
        self.act = nn.ReLU()

    def weights(self, block: Bottleneck) -> Weights:
        """Under the names of `search_spaces.networks.resnet50.Block`."""
        names = ("conv1", "conv2", "conv3", "downsample")
        weights: Weights = {}
        for name, conv in zip(names, block.convs, strict=False):
            weights |= prefixed(f"{name}.", getattr(self, name).weights(conv.inputs, conv.outputs))
        return weights

    def forward(self, x: Tensor, block: Bottleneck) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x, block.middle), block.middle), block.outputs)
        if self.downsample is not None:
            x = self.downsample(self.pool(x), block.outputs)
        return self.act(y + x)  # type: ignore[no-any-return]


def elastic(conv: Conv, activation: str, device: Device = None) -> ConvLayer:
    """A convolution of which each sub-network uses the first channels."""
    return ConvLayer(
        conv.inputs, conv.outputs, kernel=conv.kernel, stride=conv.stride, activation=activation, device=device
    )
