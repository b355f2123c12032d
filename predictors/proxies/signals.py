"""The passes that proxies share. Each is run at most once for a network, on a copy of it.

Every pass runs in evaluation mode, so dropout and the like are off and no score depends on a mask; what batch norm
does is said at each pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from predictors.proxies import per_image, scaled
from predictors.proxies.proxy import NotDefined
from search_spaces.networks.memory import ran_out

_MEMORY_BYTES = 1 << 30
_PROBED = 2
"""Images whose gradients are computed twice, the second time one by one in float64."""
_FLIPS, _FEWEST_FLIPS = 0.05, 4
"""Share and number of weights of a layer whose signs may differ in the two; healthy layers stay below a thousandth."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a layer without children during the forward pass of one image; shapes include the batch of 1."""

    name: str
    layer: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """Σ over the outputs' synaptic flow, as ``mantissa`` · 2^``exponent``; see `Signals.flow`."""

    mantissa: float
    exponent: int


class Signals:
    """Passes over one network and its minibatches.

    ``memory_bytes`` bounds what the activations of one pass take, ``at_once`` its images; neither changes a signal
    beyond rounding. Raises ValueError for batches that are no images with class labels.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Sequence[tuple[Tensor, Tensor]],
        *,
        memory_bytes: int = _MEMORY_BYTES,
        at_once: int | None = None,
    ) -> None:
        if not batches:
            raise ValueError("at least one batch is needed")
        for images, labels in batches:
            _check_batch(images, labels)
        self.network = network
        self.batches = tuple((images.detach().float(), labels.detach()) for images, labels in batches)
        self._memory_bytes, self._at_once = memory_bytes, at_once
        self._kept: dict[str, object] = {}

    def parameters(self) -> int:
        """The number of parameters, trained or not, shared ones once."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def layer_calls(self) -> tuple[LayerCall, ...]:
        """The layers that one image passes, in order; the running statistics stand in for batch norm."""
        return self._once("layer_calls", self._layer_calls)

    def sign_sums(self) -> dict[str, Tensor]:
        """Σᵢ sign gᵢ for each `Conv2d` and `Linear` weight, by layer name; zeros where no gradient arrives.

        gᵢ is the gradient of the cross-entropy of image i of the first batch. Batch norm normalises with the
        statistics of that image alone, as a network in training mode does that is fed one image at a time.

        Raises `NotDefined`: no such layer; a layer that is called twice, is fed something else than one row per
        image, has a parametrised weight, or uses its weight elsewhere; one value left to normalise; an output that
        does not depend on the image; signs that are rounding noise.
        """
        return self._once("sign_sums", self._sign_sums)

    def flow(self) -> Flow:
        """Σ over `Conv2d` and `Linear` weights of |θ · ∂R/∂θ|, R the summed output for one input of ones.

        Of the network with absolute parameters in float64, normalisations replaced by the identity, and the rules of
        `predictors.proxies.scaled` for the rest: the mantissa cannot overflow, whatever the depth.

        Raises `NotDefined` for an operation without a rule, and where nothing flows.
        """
        return self._once("flow", self._flow)

    # ------------------------------------------------------------------ the passes

    def _layer_calls(self) -> tuple[LayerCall, ...]:
        network = self._copy().eval()
        images = self.batches[0][0][:1]
        calls: list[LayerCall] = []

        def record(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
            def hook(layer: nn.Module, args: tuple[object, ...], output: object) -> None:
                if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                    calls.append(LayerCall(name, layer, tuple(args[0].shape), tuple(output.shape)))

            return hook

        for name, layer in network.named_modules():
            if not any(True for _ in layer.children()):
                layer.register_forward_hook(record(name))
        for layer in network.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is None:
                # Without running statistics it would refuse one position of one image, which no count minds.
                layer.running_mean, layer.running_var = (
                    images.new_zeros(layer.num_features),
                    images.new_ones(layer.num_features),
                )
                layer.track_running_stats = True
        with torch.no_grad():
            network(images)
        return tuple(calls)

    def _sign_sums(self) -> dict[str, Tensor]:
        images, labels = self.batches[0]
        numbers = sum(torch.Size(call.output_shape).numel() for call in self.layer_calls())
        # The forward pass keeps about one number per output for the backward pass, and hooks keep the inputs.
        at_once = min(len(images), self._at_once or len(images))
        chunk = max(1, min(at_once, self._memory_bytes // (4 * 3 * max(numbers, 1))))
        probed = min(_PROBED, len(images))
        with _full_precision(images.device):
            expected = per_image.reference_signs(self._copy(torch.float64), images[:probed].double(), labels[:probed])
            network = per_image.separate(self._copy(torch.float32))
            sums: dict[str, Tensor] = {}
            found: dict[str, Tensor] = {}

            def add(name: str, place: int, gradients: Tensor) -> None:
                signs = gradients.sign_()
                total = signs.sum(dim=1)
                sums[name] = sums[name] + total if name in sums else total
                if place < probed:
                    total = signs[:, : probed - place].sum(dim=1)
                    found[name] = found[name] + total if name in found else total

            for start in range(0, len(images), chunk):
                rows = slice(start, start + chunk)
                per_image.gradients(network, images[rows], labels[rows], start, add)
        layers = dict(per_image.weighted_layers(self.network))
        result = {}
        for name, signs in expected.items():
            if name in sums:
                _check_signs(name, signs, per_image.as_weight(layers[name], found[name]))
                result[name] = per_image.as_weight(layers[name], sums[name])
            elif bool(signs.any()):
                raise NotDefined(f"{name}: its weight is used outside of the layer")
            else:
                result[name] = signs
        return result

    def _flow(self) -> Flow:
        shape = self.batches[0][0].shape[1:]
        network = self._copy(torch.float64).eval()
        ones = torch.ones((1, *shape), dtype=torch.float64, device=self.batches[0][0].device)
        return Flow(*scaled.flow(network, ones))

    # ------------------------------------------------------------------ helpers

    def _copy(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        try:
            twin = copy.deepcopy(self.network)
        except (RuntimeError, TypeError, ValueError) as error:
            if ran_out(error):
                raise
            raise NotDefined(f"the network cannot be copied: {error}") from error
        return twin.to(dtype)

    def _once(self, name: str, run: Callable[[], T]) -> T:
        if name not in self._kept:
            try:
                self._kept[name] = run()
            except NotDefined as refusal:
                self._kept[name] = refusal
        kept = self._kept[name]
        if isinstance(kept, NotDefined):
            raise kept
        return kept  # type: ignore[return-value]


def _check_batch(images: Tensor, labels: Tensor) -> None:
    if not images.is_floating_point() or images.ndim < 2 or not len(images):
        raise ValueError(f"images must be (n, ...) floating point, n > 0, are {tuple(images.shape)} {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be ({len(images)},) int64, are {tuple(labels.shape)} {labels.dtype}")
    if int(labels.min()) < 0:
        raise ValueError("labels must be class indices, one is negative")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("an image has NaN or infinity")


def _check_signs(name: str, expected: Tensor, found: Tensor) -> None:
    flips = int((expected != found).sum())
    compared = int(((expected != 0) | (found != 0)).sum())
    if flips >= _FEWEST_FLIPS and flips > _FLIPS * compared:
        raise NotDefined(
            f"{name}: {flips} of {compared} gradient signs differ from the definition's in float64: the gradients are "
            "zero by structure and their signs rounding noise, or the layer does something else than its class"
        )


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """TensorFloat-32 off: its ten bits of mantissa turn signs. Restored afterwards."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before
