"""The Once-for-All ProxylessNAS super-network (Cai et al., ICLR 2020).

Its state dict has the published names: a released checkpoint loads with `load_state_dict`, also one from before the
rename of ``mobile_inverted_conv`` to ``conv``.
"""

from __future__ import annotations

from torch import Tensor

from search_spaces.networks.layers import Device, with_epsilon
from search_spaces.networks.proxylessnas import EPSILON, Network, ends
from search_spaces.proxylessnas import ProxylessNAS
from search_spaces.space import Genes
from search_spaces.supernets.elastic import accept_published_names, assembled, prefixed, whole
from search_spaces.supernets.mobile import ElasticChain
from search_spaces.supernets.supernet import Supernet


class ProxylessNASSupernet(Supernet):
    """All blocks at their widest; a row uses the first channels, the centres of the kernels, the first blocks."""

    def __init__(self, space: ProxylessNAS, device: Device = None) -> None:
        super().__init__()
        self.space: ProxylessNAS = space
        self.first_conv, self.feature_mix_layer, self.classifier = ends(space.full, device)
        self.blocks = ElasticChain(space.full.blocks, space.options["kernels"], device)
        with_epsilon(self, EPSILON)
        self.register_load_state_dict_pre_hook(accept_published_names)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor, row: Genes) -> Tensor:
        blocks = self.space.layout(row).blocks
        x = self.blocks(self.first_conv(images), blocks)
        return self.classifier(self.feature_mix_layer(x).mean((2, 3)))  # type: ignore[no-any-return]

    def extract(self, row: Genes) -> Network:
        layout = self.space.layout(row)
        weights = prefixed("blocks.", self.blocks.weights(layout.blocks))
        weights |= whole(self, "first_conv", "feature_mix_layer", "classifier")
        return assembled(Network(layout, device="meta"), weights)
