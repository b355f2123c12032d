"""A plain ProxylessNAS network (Cai, Zhu & Han, ICLR 2019) from explicit settings of each layer.

Parameters have the names that Once-for-All (Cai et al., ICLR 2020) publishes its specialised networks under. The
modules are ordinary ones, none works in place, and nothing here depends on a search space: a network and its state
dict are all that is needed to use it.
"""

from __future__ import annotations

from torch import Tensor, nn

from search_spaces.networks.layers import Device, classifier, conv_layer, with_epsilon
from search_spaces.networks.layout import Layout
from search_spaces.networks.mobile import Residual

ACTIVATION = "relu6"
EPSILON = 1e-3
"""What batch norm adds to the variance in all published networks of this kind."""


class Network(nn.Module):
    """Images (n, channels, height, width) → logits (n, classes)."""

    def __init__(self, layout: Layout, device: Device = None) -> None:
        super().__init__()
        self.first_conv, self.feature_mix_layer, self.classifier = ends(layout, device)
        self.blocks = nn.Sequential(*(Residual(block, device) for block in layout.blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        with_epsilon(self, EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        features = self.feature_mix_layer(self.blocks(self.first_conv(images)))
        return self.classifier(self.pool(features).flatten(1))  # type: ignore[no-any-return]


def ends(layout: Layout, device: Device = None) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """The layers before the blocks, behind them, and the classifier behind the global average pool."""
    first = conv_layer(
        layout.in_channels, layout.stem, kernel=3, stride=layout.stem_stride, activation=ACTIVATION, device=device
    )
    mix = conv_layer(layout.blocks[-1].outputs, layout.final, activation=ACTIVATION, device=device)
    return first, mix, classifier(layout.final, layout.classes, device)
