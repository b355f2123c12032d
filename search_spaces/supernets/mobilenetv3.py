"""The Once-for-All MobileNetV3 super-network (Cai et al., ICLR 2020).

Its state dict has the published names: a released checkpoint loads with `load_state_dict`, also one from before the
rename of ``mobile_inverted_conv`` to ``conv``.
"""

from __future__ import annotations

from torch import Tensor

from search_spaces.mobilenetv3 import MobileNetV3
from search_spaces.networks.layers import Device, conv_layer
from search_spaces.networks.mobilenetv3 import Network, head
from search_spaces.space import Genes
from search_spaces.supernets.elastic import accept_published_names, assembled, prefixed, whole
from search_spaces.supernets.mobile import ElasticChain
from search_spaces.supernets.supernet import Supernet


class MobileNetV3Supernet(Supernet):
    """All blocks at their widest; a row uses the first channels, the centres of the kernels, the first blocks."""

    def __init__(self, space: MobileNetV3, device: Device = None) -> None:
        super().__init__()
        self.space: MobileNetV3 = space
        full = space.full
        self.first_conv = conv_layer(
            full.in_channels, full.stem, kernel=3, stride=full.stem_stride, activation="h_swish", device=device
        )
        self.blocks = ElasticChain(full.blocks, space.options["kernels"], device)
        self.final_expand_layer, self.feature_mix_layer, self.classifier = head(full, device)
        self.register_load_state_dict_pre_hook(accept_published_names)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor, row: Genes) -> Tensor:
        blocks = self.space.layout(row).blocks
        x = self.blocks(self.first_conv(images), blocks)
        x = self.final_expand_layer(x).mean((2, 3), keepdim=True)
        return self.classifier(self.feature_mix_layer(x).flatten(1))  # type: ignore[no-any-return]

    def extract(self, row: Genes) -> Network:
        layout = self.space.layout(row)
        weights = prefixed("blocks.", self.blocks.weights(layout.blocks))
        weights |= whole(self, "first_conv", "final_expand_layer", "feature_mix_layer", "classifier")
        return assembled(Network(layout, device="meta"), weights)
