"""Networks that are a chain of mobile inverted bottlenecks, layer by layer, some of which are left out.

Parameters have the names that Once-for-All (Cai et al., ICLR 2020) publishes its specialised networks under. The
modules are ordinary ones, none works in place, and nothing here depends on a search space: a network and its state
dict are all that is needed to use it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from search_spaces.networks.layers import Device, classifier, conv_layer
from search_spaces.networks.layout import Block, Skip
from search_spaces.networks.mobile import Residual

ACTIVATION = "relu"


class Network(nn.Module):
    """Images (n, channels, height, width) → logits (n, classes).

    A 3×3 convolution to ``stem`` channels, the ``layers``, a 1×1 convolution to ``features`` channels, global average
    pool and a linear layer.
    """

    def __init__(
        self,
        layers: Sequence[Block | Skip],
        *,
        in_channels: int,
        stem: int,
        stem_stride: int,
        features: int,
        classes: int,
        device: Device = None,
    ) -> None:
        super().__init__()
        self.first_conv = conv_layer(
            in_channels, stem, kernel=3, stride=stem_stride, activation=ACTIVATION, device=device
        )
        self.blocks = nn.Sequential(*(_layer(layer, device) for layer in layers))
        self.feature_mix_layer = conv_layer(layers[-1].outputs, features, activation=ACTIVATION, device=device)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier(features, classes, device)

    def forward(self, images: Tensor) -> Tensor:
        features = self.feature_mix_layer(self.blocks(self.first_conv(images)))
        return self.classifier(self.pool(features).flatten(1))  # type: ignore[no-any-return]


def _layer(layer: Block | Skip, device: Device) -> nn.Module:
    if isinstance(layer, Block):
        return Residual(layer, device)
    if not layer.convolves:
        return nn.Identity()
    return conv_layer(layer.inputs, layer.outputs, stride=layer.stride, activation=layer.activation, device=device)
