"""A plain MobileNetV3 (Howard et al., ICCV 2019) from explicit settings of each layer.

Parameters have the names that Once-for-All (Cai et al., ICLR 2020) publishes its specialised networks under. The
modules are ordinary ones, none works in place, and nothing here depends on a search space: a network and its state
dict are all that is needed to use it.
"""

from __future__ import annotations

from torch import Tensor, nn

from search_spaces.networks.layers import Device, classifier, conv_layer
from search_spaces.networks.layout import Layout
from search_spaces.networks.mobile import Residual


class Network(nn.Module):
    """Images (n, channels, height, width) → logits (n, classes)."""

    def __init__(self, layout: Layout, device: Device = None) -> None:
        super().__init__()
        self.first_conv = conv_layer(
            layout.in_channels, layout.stem, kernel=3, stride=layout.stem_stride, activation="h_swish", device=device
        )
        self.blocks = nn.Sequential(*(Residual(block, device) for block in layout.blocks))
        self.final_expand_layer, self.feature_mix_layer, self.classifier = head(layout, device)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.final_expand_layer(self.blocks(self.first_conv(images)))
        features = self.feature_mix_layer(self.pool(features))
        return self.classifier(features.flatten(1))  # type: ignore[no-any-return]


def head(layout: Layout, device: Device = None) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """The layers before the global average pool, behind it, and the classifier."""
    final = conv_layer(layout.blocks[-1].outputs, layout.final, activation="h_swish", device=device)
    mix = conv_layer(layout.final, layout.features, norm=False, activation="h_swish", device=device)
    return final, mix, classifier(layout.features, layout.classes, device)
